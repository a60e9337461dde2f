package main

import (
	"context"
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"os"
	"strings"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

// verifyCommand judges a certificate file (leaf first) three times: crypto/x509, go-spiffe, and the rules for a leaf
// that neither enforces. With --key go-spiffe also checks that the key belongs to it.
func verifyCommand(_ context.Context, args []string) error {
	fs := flags("verify")
	bundlePath := fs.String("bundle", "", "the trust bundle: a `file` of PEM certificates or SPIFFE JSON")
	certPath := fs.String("cert", "", "the certificate and its intermediates: a PEM `file`")
	keyPath := fs.String("key", "", "the private key: a PEM `file` (PKCS#8)")
	expect := fs.String("expect", "", "the SPIFFE `ID` that it must carry")
	if err := parse(fs, args, "bundle", "cert"); err != nil {
		return err
	}
	certs, err := readCertificates(*certPath)
	if err != nil {
		return err
	}
	leaf := certs[0]
	id, err := x509svid.IDFromCert(leaf)
	if err != nil {
		return err
	}
	bundle, err := readBundle(id.TrustDomain(), *bundlePath)
	if err != nil {
		return err
	}

	if err := verifyLeaf(certs, id, bundle); err != nil {
		return fmt.Errorf("%s, serial %s: %w", id, serialHex(leaf), err)
	}
	if *expect != "" && id.String() != *expect {
		return fmt.Errorf("the certificate is for %s, not %s", id, *expect)
	}
	if *keyPath != "" {
		if err := verifyKey(*certPath, *keyPath); err != nil {
			return err
		}
	}
	f := svidFields(leaf)
	f["chain"] = len(certs)
	emit("verified", f)
	return nil
}

func verifyLeaf(certs []*x509.Certificate, id spiffeid.ID, bundle *x509bundle.Bundle) error {
	_, err := certs[0].Verify(x509.VerifyOptions{
		Roots: pool(bundle.X509Authorities()), Intermediates: pool(certs[1:]),
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	if err == nil {
		_, err = certs[0].Verify(x509.VerifyOptions{
			Roots: pool(bundle.X509Authorities()), Intermediates: pool(certs[1:]),
			KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		})
	}
	if err != nil {
		return fmt.Errorf("crypto/x509: %w", err)
	}
	if _, _, err := x509svid.Verify(certs, bundle); err != nil {
		return fmt.Errorf("go-spiffe: %w", err)
	}
	return leafRules(certs[0], id)
}

// leafRules are X509-SVID §2, §3.1, §4.1, §4.3 and §4.4, and RFC 5280 §4.1.2.2 on serials.
func leafRules(leaf *x509.Certificate, id spiffeid.ID) error {
	const forbidden = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	usage, usageThere := critical(leaf, 15)
	san, _ := critical(leaf, 17)
	switch {
	case id.Path() == "":
		return fmt.Errorf("a leaf's SPIFFE ID has a path")
	case leaf.IsCA:
		return fmt.Errorf("cA is true")
	case !usageThere || !usage:
		return fmt.Errorf("key usage is missing or not critical")
	case leaf.KeyUsage&x509.KeyUsageDigitalSignature == 0:
		return fmt.Errorf("key usage lacks digitalSignature")
	case leaf.KeyUsage&forbidden != 0:
		return fmt.Errorf("key usage has keyCertSign or cRLSign")
	case len(leaf.Subject.Names) == 0 && !san:
		return fmt.Errorf("the subject is empty and the alternative name is not critical")
	case leaf.SerialNumber.Sign() <= 0 || len(leaf.SerialNumber.Bytes()) > 20:
		return fmt.Errorf("the serial is not a positive number of at most 20 bytes")
	}
	for _, want := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
		found := false
		for _, has := range leaf.ExtKeyUsage {
			found = found || has == want
		}
		if !found {
			return fmt.Errorf("extended key usage lacks serverAuth or clientAuth")
		}
	}
	return nil
}

// critical looks at the extension 2.5.29.N.
func critical(cert *x509.Certificate, n int) (critical, present bool) {
	for _, extension := range cert.Extensions {
		if extension.Id.Equal(asn1.ObjectIdentifier{2, 5, 29, n}) {
			return extension.Critical, true
		}
	}
	return false, false
}

func verifyKey(certPath, keyPath string) error {
	cert, err := os.ReadFile(certPath)
	if err != nil {
		return err
	}
	key, err := os.ReadFile(keyPath)
	if err != nil {
		return err
	}
	if _, err := x509svid.Parse(cert, key); err != nil {
		return fmt.Errorf("%s with %s: %s", certPath, keyPath, strings.TrimPrefix(err.Error(), "x509svid: "))
	}
	return nil
}
