// Command interop drives a SPIFFE issuer with implementations that are not its own: go-spiffe for the Workload API,
// SVIDs and federation, go-jose for OIDC, SPIRE's API types for the server API, text/template for identity rules, and the
// .proto files alone for the node link.
//
// What comes in: a socket or an address of the issuer under test. What goes out: JSON lines on standard output, one
// event a line, and the verdict as exit status: 0 when every check passed, 1 when one failed (the reason on standard
// error), 2 for wrong usage. Anyone may run it; the tests under tests/ read its lines.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"
)

// command is one subcommand: it parses its own flags and returns the reason when a check failed.
type command struct {
	name, usage string
	run         func(ctx context.Context, args []string) error
}

var commands = []command{
	{"x509", "X.509-SVIDs, each verified; --watch N waits for N updates", x509Command},
	{"jwt", "a JWT-SVID, validated offline with the JWT bundles and by ValidateJWTSVID", jwtCommand},
	{"wit", "WIT-SVIDs: key binding and signature", witCommand},
	{"mtls-server", "accept mutual TLS with the SVID of a socket, until a signal or --for", mtlsServerCommand},
	{"mtls-client", "new handshakes and one long connection, until a signal or --for", mtlsClientCommand},
	{"oidc", "discovery document, JWKS and a token, verified with go-jose", oidcCommand},
	{"bundle", "a bundle endpoint, fetched with go-spiffe and checked against the format", bundleCommand},
	{"verify", "a certificate file: crypto/x509, go-spiffe and the leaf rules", verifyCommand},
	{"template", "render templates with Go's text/template, one case a line", templateCommand},
	{"template-types", "print the types that templates see, from Kubernetes' source", templateTypesCommand},
	{"server-api", "call a method of SPIRE's server API with a JSON request", serverAPICommand},
	{"link", "be a node on the node link: say what standard input says, print what the server says", linkCommand},
}

// errUsage marks a wrong command line: exit status 2.
var errUsage = errors.New("wrong usage")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if len(os.Args) < 2 {
		help()
		os.Exit(2)
	}
	for _, c := range commands {
		if c.name != os.Args[1] {
			continue
		}
		err := c.run(ctx, os.Args[2:])
		switch {
		case err == nil || errors.Is(err, flag.ErrHelp):
			return
		case errors.Is(err, errUsage):
			fmt.Fprintf(os.Stderr, "interop %s: %v\n", c.name, err)
			os.Exit(2)
		default:
			fmt.Fprintf(os.Stderr, "interop %s: %v\n", c.name, err)
			os.Exit(1)
		}
	}
	if os.Args[1] != "help" && os.Args[1] != "--help" && os.Args[1] != "-h" {
		fmt.Fprintf(os.Stderr, "interop: no subcommand %q\n", os.Args[1])
		help()
		os.Exit(2)
	}
	help()
}

func help() {
	fmt.Fprintln(os.Stderr, "usage: interop SUBCOMMAND [flags]   (--help after a subcommand shows its flags)")
	for _, c := range commands {
		fmt.Fprintf(os.Stderr, "  %-12s %s\n", c.name, c.usage)
	}
}

// flags makes a flag set whose errors are ours to report.
func flags(name string) *flag.FlagSet {
	fs := flag.NewFlagSet("interop "+name, flag.ContinueOnError)
	fs.SetOutput(os.Stderr)
	return fs
}

// parse reads args and requires a value for each of the named flags.
func parse(fs *flag.FlagSet, args []string, required ...string) error {
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return err
		}
		return fmt.Errorf("%w: %v", errUsage, err)
	}
	for _, name := range required {
		if fs.Lookup(name).Value.String() == "" {
			return fmt.Errorf("%w: --%s is missing", errUsage, name)
		}
	}
	return nil
}

var emitLock sync.Mutex

// fields is one JSON line.
type fields map[string]any

// emit prints one event; the lines of concurrent callers never mix.
func emit(event string, f fields) {
	f["event"] = event
	line, err := json.Marshal(f)
	if err != nil {
		panic(fmt.Sprintf("an event of plain values does not encode: %v", err))
	}
	emitLock.Lock()
	defer emitLock.Unlock()
	os.Stdout.Write(append(line, '\n'))
}
