package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/spiffe/go-spiffe/v2/bundle/jwtbundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

// algorithms that a JWT-SVID may be signed with (JWT-SVID §2.1).
var algorithms = []jose.SignatureAlgorithm{
	jose.RS256, jose.RS384, jose.RS512, jose.ES256, jose.ES384, jose.ES512, jose.PS256, jose.PS384, jose.PS512,
}

// jwtCommand fetches a JWT-SVID and has it accepted by two validators, and refused by both for another audience and
// with another signature.
func jwtCommand(ctx context.Context, args []string) error {
	fs := flags("jwt")
	socket := socketFlag(fs)
	audience := fs.String("audience", "", "the `audience`; several with commas")
	subject := fs.String("spiffe-id", "", "ask for this `ID` only")
	write := fs.String("write", "", "write the token to this `file`")
	await := fs.String("await-key", "", "first wait until the JWT bundles hold the key with this `id`")
	show := fs.Bool("print-token", false, "add the token to the line")
	timeout := fs.Duration("timeout", 30*time.Second, "for the whole command")
	if err := parse(fs, args, "socket", "audience"); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, *timeout)
	defer cancel()

	params := jwtsvid.Params{}
	audiences := strings.Split(*audience, ",")
	params.Audience, params.ExtraAudiences = audiences[0], audiences[1:]
	if *subject != "" {
		id, err := spiffeid.FromString(*subject)
		if err != nil {
			return fmt.Errorf("%w: --spiffe-id %s: %v", errUsage, *subject, err)
		}
		params.Subject = id
	}

	client, err := workloadapi.New(ctx, clientOptions(*socket, &streamLog{})...)
	if err != nil {
		return err
	}
	defer client.Close()
	if *await != "" {
		if err := awaitKey(ctx, client, *await); err != nil {
			return err
		}
	}
	svids, err := client.FetchJWTSVIDs(ctx, params)
	if err != nil {
		return fmt.Errorf("FetchJWTSVID for %s: %w", *audience, err)
	}
	bundles, err := client.FetchJWTBundles(ctx)
	if err != nil {
		return fmt.Errorf("FetchJWTBundles: %w", err)
	}
	for i, svid := range svids {
		f, err := checkJWT(ctx, client, bundles, svid, audiences)
		if err != nil {
			return fmt.Errorf("%s: %w", svid.ID, err)
		}
		f["default"] = i == 0
		if *show {
			f["token"] = svid.Marshal()
		}
		emit("jwt", f)
	}
	if *write != "" {
		return os.WriteFile(*write, []byte(svids[0].Marshal()), 0o600)
	}
	return nil
}

// awaitKey follows the stream of JWT bundles until one of them holds the key.
func awaitKey(ctx context.Context, client *workloadapi.Client, id string) error {
	ctx, found := context.WithCancelCause(ctx)
	defer found(nil)
	err := client.WatchJWTBundles(ctx, jwtBundles(func(bundles *jwtbundle.Set) {
		for _, bundle := range bundles.Bundles() {
			if bundle.HasJWTAuthority(id) {
				found(errFound)
			}
		}
	}))
	if errors.Is(context.Cause(ctx), errFound) {
		return nil
	}
	return fmt.Errorf("key %s did not come into the JWT bundles: %w", id, err)
}

var errFound = errors.New("found")

type jwtBundles func(*jwtbundle.Set)

func (f jwtBundles) OnJWTBundlesUpdate(bundles *jwtbundle.Set) { f(bundles) }
func (jwtBundles) OnJWTBundlesWatchError(error)                {}

func checkJWT(ctx context.Context, client *workloadapi.Client, bundles *jwtbundle.Set, svid *jwtsvid.SVID, audiences []string) (fields, error) {
	token := svid.Marshal()
	header, err := checkHeader(token)
	if err != nil {
		return nil, err
	}
	for _, audience := range audiences {
		if _, err := jwtsvid.ParseAndValidate(token, bundles, []string{audience}); err != nil {
			return nil, fmt.Errorf("not accepted with the JWT bundles for audience %s: %w", audience, err)
		}
		back, err := client.ValidateJWTSVID(ctx, token, audience)
		if err != nil {
			return nil, fmt.Errorf("ValidateJWTSVID for audience %s: %w", audience, err)
		}
		if back.ID != svid.ID {
			return nil, fmt.Errorf("ValidateJWTSVID says the subject is %s", back.ID)
		}
	}

	other := "not-" + audiences[0]
	if _, err := client.ValidateJWTSVID(ctx, token, other); err == nil {
		return nil, fmt.Errorf("ValidateJWTSVID accepts audience %s, which the token does not have", other)
	}
	forged := forge(token)
	if _, err := jwtsvid.ParseAndValidate(forged, bundles, audiences); err == nil {
		return nil, fmt.Errorf("the JWT bundles accept another signature")
	}
	if _, err := client.ValidateJWTSVID(ctx, forged, audiences[0]); err == nil {
		return nil, fmt.Errorf("ValidateJWTSVID accepts another signature")
	}

	f := fields{
		"spiffe_id": svid.ID.String(), "audience": svid.Audience, "expires_at": svid.Expiry.Format(time.RFC3339),
		"key_id": header.KeyID, "algorithm": header.Algorithm,
	}
	for _, claim := range []string{"jti", "iss", "iat"} {
		if value, ok := svid.Claims[claim]; ok {
			f[claim] = value
		}
	}
	if svid.Hint != "" {
		f["hint"] = svid.Hint
	}
	return f, nil
}

// checkHeader allows alg, kid and typ only, and demands kid, which every library needs (JWT-SVID §2).
func checkHeader(token string) (jose.Header, error) {
	parsed, err := jwt.ParseSigned(token, algorithms)
	if err != nil {
		return jose.Header{}, fmt.Errorf("not a compact JWS of an allowed algorithm: %w", err)
	}
	header := parsed.Headers[0]
	if header.KeyID == "" {
		return header, fmt.Errorf("the header has no kid")
	}
	if header.JSONWebKey != nil || header.Nonce != "" {
		return header, fmt.Errorf("the header holds more than alg, kid and typ")
	}
	for name := range header.ExtraHeaders {
		if name != jose.HeaderType {
			return header, fmt.Errorf("the header holds %s beside alg, kid and typ", name)
		}
	}
	return header, nil
}

// forge changes the signature in its middle, so that the change is not in the bits that the encoding ignores.
func forge(token string) string {
	bytes := []byte(token)
	at := strings.LastIndexByte(token, '.') + (len(token)-strings.LastIndexByte(token, '.'))/2
	if bytes[at] == 'A' {
		bytes[at] = 'B'
	} else {
		bytes[at] = 'A'
	}
	return string(bytes)
}
