package main

import (
	"context"
	"crypto/x509"
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

// socketFlag adds --socket: a path, or an address as SPIFFE_ENDPOINT_SOCKET has it (its default).
func socketFlag(fs *flag.FlagSet) *string {
	return fs.String("socket", os.Getenv(workloadapi.SocketEnv), "Workload API `socket`: a path, unix:///path or tcp://ip:port")
}

func address(socket string) string {
	if strings.Contains(socket, ":") {
		return socket
	}
	return "unix://" + socket
}

// streamLog is the logger given to go-spiffe. The library only logs a stream that broke or an answer that it could not
// parse and then tries again; here each of them is counted, so that a check can demand that there was none.
type streamLog struct {
	mu     sync.Mutex
	errors []string
}

func (*streamLog) Debugf(string, ...any) {}
func (*streamLog) Infof(string, ...any)  {}
func (*streamLog) Warnf(string, ...any)  {}
func (l *streamLog) Errorf(format string, args ...any) {
	l.mu.Lock()
	l.errors = append(l.errors, fmt.Sprintf(format, args...))
	first := len(l.errors) == 1
	text := l.errors[len(l.errors)-1]
	l.mu.Unlock()
	if first {
		emit("stream_error", fields{"error": text})
	}
}

func (l *streamLog) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.errors)
}

// check is the verdict on the streams: nil when none broke or breaks are allowed.
func (l *streamLog) check(allowed bool) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if allowed || len(l.errors) == 0 {
		return nil
	}
	return fmt.Errorf("the Workload API stream failed %d times, first: %s", len(l.errors), l.errors[0])
}

func clientOptions(socket string, log *streamLog) []workloadapi.ClientOption {
	return []workloadapi.ClientOption{workloadapi.WithAddr(address(socket)), workloadapi.WithLogger(log)}
}

// openSource waits for the first answer. onUpdate, when given, sees every set of SVIDs as it comes.
func openSource(ctx context.Context, socket string, timeout time.Duration, log *streamLog, onUpdate func([]*x509svid.SVID)) (*workloadapi.X509Source, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	picker := func(svids []*x509svid.SVID) *x509svid.SVID {
		if onUpdate != nil {
			onUpdate(svids)
		}
		return svids[0]
	}
	source, err := workloadapi.NewX509Source(ctx,
		workloadapi.WithClientOptions(clientOptions(socket, log)...),
		workloadapi.WithDefaultX509SVIDPicker(picker))
	if err != nil {
		if first := log.check(false); first != nil {
			return nil, fmt.Errorf("no X.509-SVID from %s within %s: %w (%v)", socket, timeout, err, first)
		}
		return nil, fmt.Errorf("no X.509-SVID from %s within %s: %w", socket, timeout, err)
	}
	return source, nil
}

// serialHex is the serial as openssl prints it.
func serialHex(cert *x509.Certificate) string {
	return strings.ToUpper(hex.EncodeToString(cert.SerialNumber.Bytes()))
}

// authorityIDs are the subject key identifiers, as SPIRE names its authorities.
func authorityIDs(authorities []*x509.Certificate) []string {
	ids := []string{}
	for _, cert := range authorities {
		ids = append(ids, hex.EncodeToString(cert.SubjectKeyId))
	}
	return ids
}

// svidFields describes a certificate for an event.
func svidFields(cert *x509.Certificate) fields {
	f := fields{
		"serial":     serialHex(cert),
		"not_before": cert.NotBefore.UTC().Format(time.RFC3339),
		"not_after":  cert.NotAfter.UTC().Format(time.RFC3339),
		"authority":  hex.EncodeToString(cert.AuthorityKeyId),
	}
	if len(cert.URIs) > 0 {
		f["spiffe_id"] = cert.URIs[0].String()
	}
	if len(cert.DNSNames) > 0 {
		f["dns_names"] = cert.DNSNames
	}
	return f
}
