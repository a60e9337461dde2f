package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"mime"
	"net/http"
	"time"

	"github.com/spiffe/go-spiffe/v2/federation"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
)

// bundleCommand fetches a bundle endpoint as a federated trust domain does, and reads the document itself a second time
// for the rules that go-spiffe does not enforce.
func bundleCommand(ctx context.Context, args []string) error {
	fs := flags("bundle")
	url := fs.String("url", "", "the endpoint's `URL`")
	profile := fs.String("profile", "https_web", "https_web or https_spiffe")
	domain := fs.String("trust-domain", "", "whose bundle it is (with https_spiffe the default is the endpoint's)")
	ca := fs.String("ca", "", "`file`: roots in PEM (https_web; default: the system's) or the endpoint's trust bundle in PEM or JSON (https_spiffe)")
	endpoint := fs.String("endpoint-id", "", "the endpoint's SPIFFE `ID` (https_spiffe; default: /spire/server of the trust domain)")
	timeout := fs.Duration("timeout", 30*time.Second, "for the whole command")
	if err := parse(fs, args, "url"); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, *timeout)
	defer cancel()

	var id spiffeid.ID
	var err error
	if *endpoint != "" {
		if id, err = spiffeid.FromString(*endpoint); err != nil {
			return fmt.Errorf("%w: --endpoint-id: %v", errUsage, err)
		}
		if *domain == "" {
			*domain = id.TrustDomain().Name()
		}
	}
	td, err := spiffeid.TrustDomainFromString(*domain)
	if err != nil {
		return fmt.Errorf("%w: --trust-domain %q: %v", errUsage, *domain, err)
	}

	var option federation.FetchOption
	var config *tls.Config
	switch *profile {
	case "https_web":
		roots, err := webRoots(*ca)
		if err != nil {
			return err
		}
		option, config = federation.WithWebPKIRoots(roots), &tls.Config{RootCAs: roots}
	case "https_spiffe":
		if id.IsZero() {
			id = spiffeid.RequireFromPath(td, "/spire/server")
		}
		trusted, err := readBundle(id.TrustDomain(), *ca)
		if err != nil {
			return fmt.Errorf("%w: --ca: %v", errUsage, err)
		}
		option, config = federation.WithSPIFFEAuth(trusted, id), tlsconfig.TLSClientConfig(trusted, tlsconfig.AuthorizeID(id))
	default:
		return fmt.Errorf("%w: --profile %q is neither https_web nor https_spiffe", errUsage, *profile)
	}

	bundle, err := federation.FetchBundle(ctx, td, *url, option)
	if err != nil {
		return err
	}
	if err := checkDocument(ctx, &http.Client{Transport: &http.Transport{TLSClientConfig: config}}, *url); err != nil {
		return fmt.Errorf("%s: %w", *url, err)
	}

	f := fields{"trust_domain": td.Name(), "wit_key_ids": keysOf(bundle.WITAuthorities()), "jwt_key_ids": keysOf(bundle.JWTAuthorities())}
	f["x509_authorities"] = authorityIDs(bundle.X509Authorities())
	if sequence, ok := bundle.SequenceNumber(); ok {
		f["sequence"] = sequence
	}
	if hint, ok := bundle.RefreshHint(); ok {
		f["refresh_hint"] = int(hint.Seconds())
	}
	emit("bundle", f)
	return nil
}

func keysOf[V any](m map[string]V) []string {
	keys := []string{}
	for key := range m {
		keys = append(keys, key)
	}
	return keys
}

// document is the bundle as JSON, before any library has made sense of it.
type document struct {
	Keys     []map[string]any `json:"keys"`
	Sequence *uint64          `json:"spiffe_sequence"`
	Hint     *uint32          `json:"spiffe_refresh_hint"`
}

func checkDocument(ctx context.Context, client *http.Client, url string) error {
	body, header, err := get(ctx, client, url)
	if err != nil {
		return err
	}
	if kind, _, _ := mime.ParseMediaType(header.Get("Content-Type")); kind != "application/json" {
		return fmt.Errorf("Content-Type is %q, not application/json", header.Get("Content-Type"))
	}
	var doc document
	if err := json.Unmarshal(body, &doc); err != nil {
		return err
	}
	if doc.Keys == nil {
		return fmt.Errorf("keys is missing")
	}
	if doc.Sequence == nil || doc.Hint == nil {
		return fmt.Errorf("spiffe_sequence or spiffe_refresh_hint is missing")
	}
	ids := map[string]bool{}
	for i, key := range doc.Keys {
		if err := checkKey(key, ids); err != nil {
			return fmt.Errorf("key %d: %w", i, err)
		}
	}
	return nil
}

// checkKey holds one JWK to X509-SVID §6.1, JWT-SVID §6.1, WIT-SVID §6.1 and the bundle format §4.2.
func checkKey(key map[string]any, ids map[string]bool) error {
	for _, private := range []string{"d", "p", "q", "dp", "dq", "qi", "k"} {
		if _, ok := key[private]; ok {
			return fmt.Errorf("holds the private member %s", private)
		}
	}
	if _, ok := key["kty"].(string); !ok {
		return fmt.Errorf("kty is missing")
	}
	kid, _ := key["kid"].(string)
	switch use, _ := key["use"].(string); use {
	case "x509-svid":
		if _, ok := key["kid"]; ok {
			return fmt.Errorf("use x509-svid has a kid")
		}
		chain, _ := key["x5c"].([]any)
		if len(chain) != 1 {
			return fmt.Errorf("x5c has %d certificates, not one", len(chain))
		}
		text, _ := chain[0].(string)
		der, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			return fmt.Errorf("x5c: %w", err)
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return fmt.Errorf("x5c: %w", err)
		}
		if !cert.IsCA || cert.KeyUsage&x509.KeyUsageCertSign == 0 {
			return fmt.Errorf("x5c holds no signing certificate")
		}
	case "jwt-svid", "wit-svid":
		if kid == "" || ids[kid] {
			return fmt.Errorf("use %s has kid %q, which is empty or taken", use, kid)
		}
		ids[kid] = true
	default:
		return fmt.Errorf("use is %q", use)
	}
	return nil
}
