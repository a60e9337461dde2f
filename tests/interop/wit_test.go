package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc"
)

// No peer serves WIT-SVIDs yet, so the subcommand is held against a Workload API made here.

func TestAWitWithItsOwnKeyIsAccepted(t *testing.T) {
	key := newKey(t)
	authority := newKey(t)
	socket := serveWIT(t, witServer{token: mintWIT(t, authority, &key.PublicKey), key: jwkOf(t, key, ""), bundle: bundleOf(t, authority)})
	if err := witCommand(context.Background(), []string{"--socket", socket}); err != nil {
		t.Fatal(err)
	}
}

func TestAWitForAnotherKeyIsRefused(t *testing.T) {
	authority := newKey(t)
	socket := serveWIT(t, witServer{token: mintWIT(t, authority, &newKey(t).PublicKey), key: jwkOf(t, newKey(t), ""), bundle: bundleOf(t, authority)})
	refuses(t, socket, "cnf.jwk")
}

func TestAWitOfAnUnknownAuthorityIsRefused(t *testing.T) {
	key := newKey(t)
	socket := serveWIT(t, witServer{token: mintWIT(t, newKey(t), &key.PublicKey), key: jwkOf(t, key, ""), bundle: bundleOf(t, newKey(t))})
	refuses(t, socket, "not accepted with the WIT bundles")
}

func refuses(t *testing.T, socket, reason string) {
	t.Helper()
	err := witCommand(context.Background(), []string{"--socket", socket})
	if err == nil || !strings.Contains(err.Error(), reason) {
		t.Fatalf("want a refusal that says %q, got %v", reason, err)
	}
}

type witServer struct {
	workload.UnimplementedSpiffeWorkloadAPIServer
	token, key string
	bundle     string
}

func (s witServer) FetchWITSVID(_ *workload.WITSVIDRequest, stream workload.SpiffeWorkloadAPI_FetchWITSVIDServer) error {
	return stream.Send(&workload.WITSVIDResponse{Svids: []*workload.WITSVID{
		{SpiffeId: "spiffe://example.org/a", WitSvid: s.token, WitSvidKey: s.key},
	}})
}

func (s witServer) FetchWITBundles(_ *workload.WITBundlesRequest, stream workload.SpiffeWorkloadAPI_FetchWITBundlesServer) error {
	return stream.Send(&workload.WITBundlesResponse{Bundles: map[string]string{"spiffe://example.org": s.bundle}})
}

func serveWIT(t *testing.T, server witServer) string {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer()
	workload.RegisterSpiffeWorkloadAPIServer(g, server)
	go g.Serve(listener)
	t.Cleanup(g.Stop)
	return socket
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func jwkOf(t *testing.T, key any, kid string) string {
	t.Helper()
	text, err := jose.JSONWebKey{Key: key, KeyID: kid, Algorithm: "ES256"}.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func bundleOf(t *testing.T, authority *ecdsa.PrivateKey) string {
	t.Helper()
	set := jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: &authority.PublicKey, KeyID: "authority", Use: "wit-svid"}}}
	text, err := json.Marshal(set)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func mintWIT(t *testing.T, authority *ecdsa.PrivateKey, subject *ecdsa.PublicKey) string {
	t.Helper()
	options := (&jose.SignerOptions{}).WithType("wit+jwt").WithHeader("kid", "authority")
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: authority}, options)
	if err != nil {
		t.Fatal(err)
	}
	claims := map[string]any{
		"sub": "spiffe://example.org/a",
		"exp": time.Now().Add(time.Hour).Unix(),
		"cnf": map[string]any{"jwk": json.RawMessage(jwkOf(t, subject, ""))},
	}
	token, err := jwt.Signed(signer).Claims(claims).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return token
}
