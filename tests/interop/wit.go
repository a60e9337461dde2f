package main

import (
	"context"
	"crypto"
	"fmt"
	"time"

	"github.com/spiffe/go-spiffe/v2/exp/svid/witsvid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// witCommand fetches WIT-SVIDs and checks that the key in the token is the one that came with it, and the signature
// with the WIT bundles where they are offered.
func witCommand(ctx context.Context, args []string) error {
	fs := flags("wit")
	socket := socketFlag(fs)
	subject := fs.String("spiffe-id", "", "ask for this `ID` only")
	timeout := fs.Duration("timeout", 30*time.Second, "for the whole command")
	if err := parse(fs, args, "socket"); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, *timeout)
	defer cancel()

	client, err := workloadapi.New(ctx, clientOptions(*socket, &streamLog{})...)
	if err != nil {
		return err
	}
	defer client.Close()
	svids, err := client.FetchWITSVIDs(ctx, *subject)
	if err != nil {
		return fmt.Errorf("FetchWITSVID: %w", err)
	}
	bundles, err := client.FetchWITBundles(ctx)
	offered := status.Code(err) != codes.Unimplemented
	if offered && err != nil {
		return fmt.Errorf("FetchWITBundles: %w", err)
	}
	for i, svid := range svids {
		if err := checkCnf(svid); err != nil {
			return fmt.Errorf("%s: %w", svid.ID, err)
		}
		if offered {
			if _, err := witsvid.ParseAndValidate(svid.Marshal(), bundles); err != nil {
				return fmt.Errorf("%s: not accepted with the WIT bundles: %w", svid.ID, err)
			}
			if _, err := witsvid.ParseAndValidate(forge(svid.Marshal()), bundles); err == nil {
				return fmt.Errorf("%s: the WIT bundles accept another signature", svid.ID)
			}
		}
		emit("wit", fields{
			"spiffe_id": svid.ID.String(), "key_id": svid.KeyID, "expires_at": svid.Expiry.Format(time.RFC3339),
			"hint": svid.Hint, "default": i == 0, "bundles": offered,
		})
	}
	return nil
}

func checkCnf(svid *witsvid.SVID) error {
	signer, ok := svid.PrivateKey.(crypto.Signer)
	if !ok {
		return fmt.Errorf("the private key that came with it is a %T", svid.PrivateKey)
	}
	public, ok := signer.Public().(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !public.Equal(svid.PublicKey) {
		return fmt.Errorf("cnf.jwk is not the public half of the key that came with it")
	}
	return nil
}
