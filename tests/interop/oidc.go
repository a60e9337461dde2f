package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// discovery is what a relying party reads (OpenID Connect Discovery 1.0 §3).
type discovery struct {
	Issuer                string   `json:"issuer"`
	JWKSURI               string   `json:"jwks_uri"`
	AuthorizationEndpoint *string  `json:"authorization_endpoint"`
	ResponseTypes         []string `json:"response_types_supported"`
	SubjectTypes          []string `json:"subject_types_supported"`
	Algorithms            []string `json:"id_token_signing_alg_values_supported"`
}

// oidcCommand does what a cloud's token service does with a JWT-SVID: from the issuer to the document, to the keys, to
// the token.
func oidcCommand(ctx context.Context, args []string) error {
	fs := flags("oidc")
	issuer := fs.String("issuer", "", "the issuer's `URL`, as it is in the token")
	ca := fs.String("ca", "", "PEM `file` of roots for the issuer's certificate (default: the system's)")
	token := fs.String("token", "", "the `token`, @FILE, or - for standard input; without it only the documents are checked")
	audience := fs.String("audience", "", "the audience that the token must have")
	anyIssuer := fs.Bool("any-issuer", false, "the token's iss may be another (keys served by a stand-in)")
	timeout := fs.Duration("timeout", 30*time.Second, "for the whole command")
	if err := parse(fs, args, "issuer"); err != nil {
		return err
	}
	if *token != "" && *audience == "" {
		return fmt.Errorf("%w: --audience is missing", errUsage)
	}
	ctx, cancel := context.WithTimeout(ctx, *timeout)
	defer cancel()
	roots, err := webRoots(*ca)
	if err != nil {
		return err
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}}

	var doc discovery
	where := strings.TrimSuffix(*issuer, "/") + "/.well-known/openid-configuration"
	if err := getJSON(ctx, client, where, &doc); err != nil {
		return err
	}
	if err := doc.check(*issuer); err != nil {
		return fmt.Errorf("%s: %w", where, err)
	}
	var keys jose.JSONWebKeySet
	if err := getJSON(ctx, client, doc.JWKSURI, &keys); err != nil {
		return err
	}
	if err := checkKeys(keys, doc.Algorithms); err != nil {
		return fmt.Errorf("%s: %w", doc.JWKSURI, err)
	}
	var ids []string
	for _, key := range keys.Keys {
		ids = append(ids, key.KeyID)
	}
	emit("discovery", fields{"issuer": doc.Issuer, "jwks_uri": doc.JWKSURI, "algorithms": doc.Algorithms, "key_ids": ids})

	if *token == "" {
		return nil
	}
	text, err := textArgument(*token)
	if err != nil {
		return err
	}
	expected := jwt.Expected{Issuer: doc.Issuer, AnyAudience: jwt.Audience{*audience}}
	if *anyIssuer {
		expected.Issuer = ""
	}
	return verifyToken(text, doc, keys, expected)
}

func getJSON(ctx context.Context, client *http.Client, url string, into any) error {
	body, header, err := get(ctx, client, url)
	if err != nil {
		return err
	}
	if kind, _, _ := mime.ParseMediaType(header.Get("Content-Type")); kind != "application/json" && kind != "application/jwk-set+json" {
		return fmt.Errorf("GET %s: Content-Type is %q, not application/json", url, header.Get("Content-Type"))
	}
	if err := json.Unmarshal(body, into); err != nil {
		return fmt.Errorf("GET %s: %w", url, err)
	}
	return nil
}

func get(ctx context.Context, client *http.Client, url string) ([]byte, http.Header, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, nil, err
	}
	response, err := client.Do(request)
	if err != nil {
		return nil, nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, 4<<20))
	if err != nil {
		return nil, nil, fmt.Errorf("GET %s: %w", url, err)
	}
	if response.StatusCode != http.StatusOK {
		return nil, nil, fmt.Errorf("GET %s: %s", url, response.Status)
	}
	return body, response.Header, nil
}

func (d discovery) check(issuer string) error {
	switch {
	case d.Issuer != issuer:
		return fmt.Errorf("issuer is %q, not %q", d.Issuer, issuer)
	case !strings.HasPrefix(d.JWKSURI, "https://"):
		return fmt.Errorf("jwks_uri is %q, not an https URL", d.JWKSURI)
	case d.AuthorizationEndpoint == nil:
		return fmt.Errorf("authorization_endpoint is missing; it may be empty, but strict readers demand it")
	case !slices.Contains(d.ResponseTypes, "id_token"):
		return fmt.Errorf("response_types_supported is %q, without id_token", d.ResponseTypes)
	case len(d.SubjectTypes) == 0:
		return fmt.Errorf("subject_types_supported is missing")
	case len(d.Algorithms) == 0:
		return fmt.Errorf("id_token_signing_alg_values_supported is missing")
	}
	return nil
}

func checkKeys(keys jose.JSONWebKeySet, listed []string) error {
	if len(keys.Keys) == 0 {
		return fmt.Errorf("no key")
	}
	seen := map[string]bool{}
	for i, key := range keys.Keys {
		switch {
		case key.KeyID == "":
			return fmt.Errorf("key %d has no kid", i)
		case seen[key.KeyID]:
			return fmt.Errorf("two keys have kid %s", key.KeyID)
		case !key.Valid() || !key.IsPublic():
			return fmt.Errorf("key %s is not a valid public key", key.KeyID)
		case key.Use != "sig":
			return fmt.Errorf("key %s has use %q, not sig, which Azure demands", key.KeyID, key.Use)
		case !slices.Contains(listed, key.Algorithm):
			return fmt.Errorf("key %s has alg %q, which the discovery document does not list in %q", key.KeyID, key.Algorithm, listed)
		}
		seen[key.KeyID] = true
	}
	return nil
}

func verifyToken(token string, doc discovery, keys jose.JSONWebKeySet, expected jwt.Expected) error {
	var allowed []jose.SignatureAlgorithm
	for _, name := range doc.Algorithms {
		allowed = append(allowed, jose.SignatureAlgorithm(name))
	}
	parsed, err := jwt.ParseSigned(token, allowed)
	if err != nil {
		return fmt.Errorf("the token is not a JWS of an algorithm that the discovery document lists: %w", err)
	}
	header := parsed.Headers[0]
	found := keys.Key(header.KeyID)
	if len(found) != 1 {
		return fmt.Errorf("the JWKS has %d keys with the token's kid %q", len(found), header.KeyID)
	}
	if found[0].Algorithm != header.Algorithm {
		return fmt.Errorf("the token's alg is %s and its key's is %s", header.Algorithm, found[0].Algorithm)
	}
	var claims jwt.Claims
	if err := parsed.Claims(found[0].Key, &claims); err != nil {
		return fmt.Errorf("the signature is not by key %s: %w", header.KeyID, err)
	}
	if claims.Expiry == nil || claims.IssuedAt == nil {
		return fmt.Errorf("the token lacks exp or iat")
	}
	now := time.Now()
	if claims.IssuedAt.Time().After(now) {
		return fmt.Errorf("iat %s is in the future; AWS demands the past", claims.IssuedAt.Time().UTC().Format(time.RFC3339))
	}
	expected.Time = now
	if err := claims.ValidateWithLeeway(expected, 0); err != nil {
		return fmt.Errorf("issuer %q, audience %q: %w", claims.Issuer, claims.Audience, err)
	}
	emit("token", fields{
		"subject": claims.Subject, "issuer": claims.Issuer, "audience": []string(claims.Audience), "jti": claims.ID,
		"key_id": header.KeyID, "algorithm": header.Algorithm, "expires_at": claims.Expiry.Time().UTC().Format(time.RFC3339),
	})
	return nil
}
