package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

// x509Command prints each SVID of the first answer and of --watch further ones, and verifies every one with the bundle
// that came in the same answer.
func x509Command(ctx context.Context, args []string) error {
	fs := flags("x509")
	socket := socketFlag(fs)
	watch := fs.Int("watch", 0, "wait for `N` updates after the first answer")
	timeout := fs.Duration("timeout", 30*time.Second, "how long to wait for the first answer, and then for each update")
	write := fs.String("write", "", "write svid.pem, svid_key.pem and bundle.pem of the default SVID into this `directory`")
	reconnects := fs.Bool("allow-reconnects", false, "a broken stream is not a failure")
	if err := parse(fs, args, "socket"); err != nil {
		return err
	}

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	log := &streamLog{}
	updates := make(answers)
	ended := make(chan error, 1)
	go func() { ended <- workloadapi.WatchX509Context(ctx, updates, clientOptions(*socket, log)...) }()

	for n := 0; n <= *watch; n++ {
		select {
		case answer := <-updates:
			if err := report(answer, n); err != nil {
				return err
			}
			if *write != "" {
				if err := writeSVID(answer, *write); err != nil {
					return err
				}
			}
		case err := <-ended:
			return fmt.Errorf("after %d of %d answers the stream ended: %w", n, *watch+1, err)
		case <-time.After(*timeout):
			if err := log.check(false); err != nil {
				return fmt.Errorf("after %d of %d answers: %w", n, *watch+1, err)
			}
			return fmt.Errorf("after %d of %d answers none came from %s within %s", n, *watch+1, *socket, *timeout)
		}
	}
	return log.check(*reconnects)
}

// answers is the watcher that hands on every answer as it came.
type answers chan *workloadapi.X509Context

func (a answers) OnX509ContextUpdate(answer *workloadapi.X509Context) { a <- answer }

// OnX509ContextWatchError says nothing: streamLog has counted the broken stream or the answer that does not parse.
func (a answers) OnX509ContextWatchError(error) {}

func report(answer *workloadapi.X509Context, update int) error {
	for i, svid := range answer.SVIDs {
		f := svidFields(svid.Certificates[0])
		f["update"], f["default"], f["chain"] = update, i == 0, len(svid.Certificates)
		if svid.Hint != "" {
			f["hint"] = svid.Hint
		}
		bundle, err := answer.Bundles.GetX509BundleForTrustDomain(svid.ID.TrustDomain())
		if err != nil {
			return fmt.Errorf("no bundle came with %s: %w", svid.ID, err)
		}
		f["bundle"] = authorityIDs(bundle.X509Authorities())
		if _, _, err := x509svid.Verify(svid.Certificates, answer.Bundles); err != nil {
			return fmt.Errorf("%s with serial %s does not verify with the bundle that came with it: %w", svid.ID, f["serial"], err)
		}
		emit("svid", f)
	}
	return nil
}
