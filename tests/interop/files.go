package main

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

// writeSVID leaves the default SVID as files, for tools that read PEM.
func writeSVID(answer *workloadapi.X509Context, dir string) error {
	svid := answer.DefaultSVID()
	chain, key, err := svid.Marshal()
	if err != nil {
		return err
	}
	bundle, err := answer.Bundles.GetX509BundleForTrustDomain(svid.ID.TrustDomain())
	if err != nil {
		return err
	}
	roots, err := bundle.Marshal()
	if err != nil {
		return err
	}
	for name, data := range map[string][]byte{"svid.pem": chain, "svid_key.pem": key, "bundle.pem": roots} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// readCertificates reads every certificate of a PEM file.
func readCertificates(path string) ([]*x509.Certificate, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var certs []*x509.Certificate
	for {
		var block *pem.Block
		block, data = pem.Decode(data)
		if block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate %d in %s: %w", len(certs), path, err)
		}
		certs = append(certs, cert)
	}
	if len(certs) == 0 {
		return nil, fmt.Errorf("%s holds no PEM certificate", path)
	}
	return certs, nil
}

// readBundle reads a trust bundle as PEM certificates or as SPIFFE JSON.
func readBundle(td spiffeid.TrustDomain, path string) (*x509bundle.Bundle, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if strings.HasPrefix(strings.TrimSpace(string(data)), "{") {
		bundle, err := spiffebundle.Parse(td, data)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		return bundle.X509Bundle(), nil
	}
	certs, err := readCertificates(path)
	if err != nil {
		return nil, err
	}
	return x509bundle.FromX509Authorities(td, certs), nil
}

func pool(certs []*x509.Certificate) *x509.CertPool {
	p := x509.NewCertPool()
	for _, cert := range certs {
		p.AddCert(cert)
	}
	return p
}

// webRoots is the pool of a CA file, or nil (the system's roots) without one.
func webRoots(path string) (*x509.CertPool, error) {
	if path == "" {
		return nil, nil
	}
	certs, err := readCertificates(path)
	if err != nil {
		return nil, err
	}
	return pool(certs), nil
}

// textArgument is a value given as it is, as @FILE, or as - for standard input.
func textArgument(value string) (string, error) {
	var data []byte
	var err error
	switch {
	case value == "-":
		data, err = io.ReadAll(io.LimitReader(os.Stdin, 1<<20))
	case strings.HasPrefix(value, "@"):
		data, err = os.ReadFile(value[1:])
	default:
		data = []byte(value)
	}
	if err != nil {
		return "", err
	}
	text := strings.TrimSpace(string(data))
	if text == "" {
		return "", errors.New("the value is empty")
	}
	return text, nil
}
