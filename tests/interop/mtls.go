package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

// Both ends of mutual TLS between two workloads: the server echoes lines, the client makes a new handshake at a steady
// rate, says one line over it and reads it back (with TLS 1.3 only the answer proves that the server accepted the
// client), and says a line over one long connection at the same rate. A failed handshake is a failure of the command.

// exchangeTimeout bounds a handshake with its one line; the workload is on the same machine.
const exchangeTimeout = 10 * time.Second

func mtlsServerCommand(ctx context.Context, args []string) error {
	fs := flags("mtls-server")
	socket := socketFlag(fs)
	listen := fs.String("listen", "127.0.0.1:0", "`address` to listen on; the first line says which it became")
	authorize := fs.String("authorize", "td", "who may connect: a SPIFFE `ID`, or td for the own trust domain")
	reconnects := fs.Bool("allow-reconnects", false, "a broken Workload API stream is not a failure")
	timeout := fs.Duration("timeout", 30*time.Second, "how long to wait for the first SVID")
	span := fs.Duration("for", 0, "stop after this `duration` (default: at a signal)")
	if err := parse(fs, args, "socket", "authorize"); err != nil {
		return err
	}
	ctx, cancel := limit(ctx, *span)
	defer cancel()

	t := newTally()
	source, err := openSource(ctx, *socket, *timeout, t.stream, t.own)
	if err != nil {
		return err
	}
	defer source.Close()
	go t.watchBundle(ctx, source)
	authorizer, err := authorizerFor(source, *authorize)
	if err != nil {
		return err
	}
	listener, err := tls.Listen("tcp", *listen, tlsconfig.MTLSServerConfig(source, source, authorizer))
	if err != nil {
		return err
	}
	context.AfterFunc(ctx, func() { listener.Close() })
	emit("listening", fields{"address": listener.Addr().String()})

	var connections sync.WaitGroup
	for {
		conn, err := listener.Accept()
		if err != nil {
			break
		}
		connections.Add(1)
		go func() {
			defer connections.Done()
			t.serve(ctx, conn.(*tls.Conn))
		}()
	}
	connections.Wait()
	return t.finish(*reconnects)
}

func mtlsClientCommand(ctx context.Context, args []string) error {
	fs := flags("mtls-client")
	socket := socketFlag(fs)
	connect := fs.String("connect", "", "the server's `address`")
	expect := fs.String("expect", "", "the server's SPIFFE `ID`, or td for the own trust domain")
	rate := fs.Float64("rate", 10, "new handshakes a second")
	reconnects := fs.Bool("allow-reconnects", false, "a broken Workload API stream is not a failure")
	timeout := fs.Duration("timeout", 30*time.Second, "how long to wait for the first SVID")
	span := fs.Duration("for", 0, "stop after this `duration` (default: at a signal)")
	if err := parse(fs, args, "socket", "connect", "expect"); err != nil {
		return err
	}
	if *rate <= 0 {
		return fmt.Errorf("%w: --rate %v is not above zero", errUsage, *rate)
	}
	ctx, cancel := limit(ctx, *span)
	defer cancel()

	t := newTally()
	source, err := openSource(ctx, *socket, *timeout, t.stream, t.own)
	if err != nil {
		return err
	}
	defer source.Close()
	go t.watchBundle(ctx, source)
	authorizer, err := authorizerFor(source, *expect)
	if err != nil {
		return err
	}
	config := tlsconfig.MTLSClientConfig(source, source, authorizer)

	long, err := t.dial(*connect, config)
	if err != nil {
		t.failed(err)
		return t.finish(*reconnects)
	}
	defer long.Close()
	tick := time.NewTicker(time.Duration(float64(time.Second) / *rate))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return t.finish(*reconnects)
		case <-tick.C:
		}
		if conn, err := t.dial(*connect, config); err != nil {
			t.failed(err)
		} else {
			conn.Close()
		}
		if err := exchange(long); err != nil {
			return errors.Join(fmt.Errorf("the long connection broke after %d lines: %w", t.lines, err), t.finish(*reconnects))
		}
		t.lines++
	}
}

func limit(ctx context.Context, span time.Duration) (context.Context, context.CancelFunc) {
	if span == 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, span)
}

func authorizerFor(source *workloadapi.X509Source, who string) (tlsconfig.Authorizer, error) {
	if who == "td" {
		svid, err := source.GetX509SVID()
		if err != nil {
			return nil, err
		}
		return tlsconfig.AuthorizeMemberOf(svid.ID.TrustDomain()), nil
	}
	id, err := spiffeid.FromString(who)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %v", errUsage, who, err)
	}
	return tlsconfig.AuthorizeID(id), nil
}

// tally counts, and remembers which certificates it saw at each end.
type tally struct {
	stream *streamLog
	lines  int // over the long connection

	mu           sync.Mutex
	handshakes   int
	failures     int
	firstFailure error
	serials      map[string][]string // by end, in the order seen
	authorities  map[string][]string
}

func newTally() *tally {
	return &tally{stream: &streamLog{}, serials: map[string][]string{}, authorities: map[string][]string{}}
}

// saw records a certificate and announces one that is new, so that a driver can follow a rotation.
func (t *tally) saw(end string, svid *x509svid.SVID) {
	leaf := svid.Certificates[0]
	f := svidFields(leaf)
	serial, authority := f["serial"].(string), f["authority"].(string)
	t.mu.Lock()
	fresh := !slices.Contains(t.serials[end], serial)
	if fresh {
		t.serials[end] = append(t.serials[end], serial)
	}
	if !slices.Contains(t.authorities[end], authority) {
		t.authorities[end] = append(t.authorities[end], authority)
	}
	t.mu.Unlock()
	if fresh {
		f["end"] = end
		emit("svid", f)
	}
}

func (t *tally) own(svids []*x509svid.SVID) { t.saw("own", svids[0]) }

func (t *tally) peer(conn *tls.Conn) {
	t.saw("peer", &x509svid.SVID{Certificates: conn.ConnectionState().PeerCertificates})
}

// watchBundle announces the own trust domain's authorities, and each change of them.
func (t *tally) watchBundle(ctx context.Context, source *workloadapi.X509Source) {
	var last []string
	for {
		// A source that was closed ends this; its errors have no other cause.
		svid, err := source.GetX509SVID()
		if err != nil {
			return
		}
		bundle, err := source.GetX509BundleForTrustDomain(svid.ID.TrustDomain())
		if err != nil {
			return
		}
		if ids := authorityIDs(bundle.X509Authorities()); !slices.Equal(ids, last) {
			emit("bundle", fields{"authorities": ids})
			last = ids
		}
		if source.WaitUntilUpdated(ctx) != nil {
			return
		}
	}
}

func (t *tally) succeeded() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.handshakes++
}

func (t *tally) failed(err error) {
	emit("failure", fields{"error": err.Error()})
	t.mu.Lock()
	defer t.mu.Unlock()
	t.failures++
	if t.firstFailure == nil {
		t.firstFailure = err
	}
}

// finish prints the sum and says whether it is one to be content with.
func (t *tally) finish(reconnects bool) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	emit("summary", fields{
		"handshakes": t.handshakes, "failures": t.failures, "lines": t.lines, "stream_errors": t.stream.count(),
		"own_serials": t.serials["own"], "peer_serials": t.serials["peer"],
		"own_authorities": t.authorities["own"], "peer_authorities": t.authorities["peer"],
	})
	switch {
	case t.failures > 0:
		return fmt.Errorf("%d of %d handshakes failed, first: %w", t.failures, t.failures+t.handshakes, t.firstFailure)
	case t.handshakes == 0:
		return errors.New("no handshake was made")
	}
	return t.stream.check(reconnects)
}

// serve completes the handshake and echoes lines until the client closes.
func (t *tally) serve(ctx context.Context, conn *tls.Conn) {
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(exchangeTimeout))
	if err := conn.Handshake(); err != nil {
		if !errors.Is(err, io.EOF) { // a probe that closed before its first byte
			t.failed(fmt.Errorf("handshake with %s: %w", conn.RemoteAddr(), err))
		}
		return
	}
	conn.SetDeadline(time.Time{})
	t.succeeded()
	t.peer(conn)
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Now()) })
	defer stop()
	reader := bufio.NewReaderSize(conn, 256)
	for {
		line, err := reader.ReadSlice('\n')
		if err != nil {
			return
		}
		if _, err := conn.Write(line); err != nil {
			return
		}
	}
}

// dial makes a connection that has carried one line there and back.
func (t *tally) dial(address string, config *tls.Config) (*tls.Conn, error) {
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: exchangeTimeout}, "tcp", address, config)
	if err != nil {
		return nil, fmt.Errorf("handshake with %s: %w", address, err)
	}
	if err := exchange(conn); err != nil {
		conn.Close()
		return nil, fmt.Errorf("handshake with %s: %w", address, err)
	}
	t.succeeded()
	t.peer(conn)
	return conn, nil
}

func exchange(conn *tls.Conn) error {
	const line = "hello\n"
	conn.SetDeadline(time.Now().Add(exchangeTimeout))
	if _, err := io.WriteString(conn, line); err != nil {
		return fmt.Errorf("no line could be sent: %w", err)
	}
	back := make([]byte, len(line))
	if _, err := io.ReadFull(conn, back); err != nil {
		return fmt.Errorf("no line came back: %w", err)
	}
	if string(back) != line {
		return fmt.Errorf("%q came back", strings.TrimSpace(string(back)))
	}
	return nil
}
