package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sort"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	_ "github.com/spiffe/spire-api-sdk/proto/spire/api/server/agent/v1"
	_ "github.com/spiffe/spire-api-sdk/proto/spire/api/server/bundle/v1"
	_ "github.com/spiffe/spire-api-sdk/proto/spire/api/server/debug/v1"
	_ "github.com/spiffe/spire-api-sdk/proto/spire/api/server/entry/v1"
	_ "github.com/spiffe/spire-api-sdk/proto/spire/api/server/localauthority/v1"
	_ "github.com/spiffe/spire-api-sdk/proto/spire/api/server/logger/v1"
	_ "github.com/spiffe/spire-api-sdk/proto/spire/api/server/svid/v1"
	_ "github.com/spiffe/spire-api-sdk/proto/spire/api/server/trustdomain/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/dynamicpb"
)

// serverAPICommand calls any method of SPIRE's server API, by the types that SPIRE publishes: over the admin socket, or
// over TLS as nobody or with an SVID. A server stream's answers are a line each; a bidirectional stream gets the one
// request and is read until it ends.
func serverAPICommand(ctx context.Context, args []string) error {
	fs := flags("server-api")
	socket := fs.String("socket", "", "the server's admin socket: a `path`")
	server := fs.String("server", "", "or its `address`, over TLS; the certificate must be of /spire/server")
	bundle := fs.String("bundle", "", "with --server: the trust bundle, a `file` of PEM or SPIFFE JSON")
	domain := fs.String("trust-domain", "", "with --server: the trust domain")
	cert := fs.String("cert", "", "with --server: the caller's SVID, a PEM `file`")
	key := fs.String("key", "", "with --server: its key, a PEM `file`")
	list := fs.Bool("list", false, "print the methods and stop")
	timeout := fs.Duration("timeout", 30*time.Second, "for the whole call")
	fs.Usage = func() {
		fmt.Fprintln(fs.Output(), "usage: interop server-api [flags] METHOD [JSON | @FILE | -]   (METHOD: entry.v1.Entry/ListEntries)")
		fs.PrintDefaults()
	}
	if err := parse(fs, args); err != nil {
		return err
	}
	if *list {
		for _, name := range methods() {
			fmt.Println(name)
		}
		return nil
	}
	if fs.NArg() < 1 || fs.NArg() > 2 || (*socket == "") == (*server == "") {
		return fmt.Errorf("%w: one method, at most one request, and one of --socket and --server", errUsage)
	}
	method, err := findMethod(fs.Arg(0))
	if err != nil {
		return err
	}
	request := dynamicpb.NewMessage(method.Input())
	if fs.NArg() == 2 {
		text, err := textArgument(fs.Arg(1))
		if err != nil {
			return err
		}
		if err := protojson.Unmarshal([]byte(text), request); err != nil {
			return fmt.Errorf("%w: %s: %v", errUsage, method.Input().FullName(), err)
		}
	}

	target, security := "unix:"+*socket, insecure.NewCredentials()
	if *server != "" {
		config, err := serverTLS(*domain, *bundle, *cert, *key)
		if err != nil {
			return err
		}
		target, security = *server, credentials.NewTLS(config)
	}
	conn, err := grpc.NewClient(target, grpc.WithTransportCredentials(security), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20)))
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, *timeout)
	defer cancel()
	return call(ctx, conn, method, request)
}

const apiPrefix = "spire.api.server."

func methods() []string {
	var names []string
	protoregistry.GlobalFiles.RangeFiles(func(file protoreflect.FileDescriptor) bool {
		for i := range file.Services().Len() {
			service := file.Services().Get(i)
			for j := range service.Methods().Len() {
				if name := string(service.FullName()); strings.HasPrefix(name, apiPrefix) {
					names = append(names, strings.TrimPrefix(name, apiPrefix)+"/"+string(service.Methods().Get(j).Name()))
				}
			}
		}
		return true
	})
	sort.Strings(names)
	return names
}

func findMethod(name string) (protoreflect.MethodDescriptor, error) {
	service, method, _ := strings.Cut(strings.TrimPrefix(name, apiPrefix), "/")
	found, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(apiPrefix + service))
	if s, ok := found.(protoreflect.ServiceDescriptor); err == nil && ok {
		if m := s.Methods().ByName(protoreflect.Name(method)); m != nil {
			return m, nil
		}
	}
	return nil, fmt.Errorf("%w: no method %q; --list shows them", errUsage, name)
}

func serverTLS(domain, bundlePath, certPath, keyPath string) (*tls.Config, error) {
	td, err := spiffeid.TrustDomainFromString(domain)
	if err != nil {
		return nil, fmt.Errorf("%w: --trust-domain %q: %v", errUsage, domain, err)
	}
	bundle, err := readBundle(td, bundlePath)
	if err != nil {
		return nil, fmt.Errorf("%w: --bundle: %v", errUsage, err)
	}
	server := tlsconfig.AuthorizeID(spiffeid.RequireFromPath(td, "/spire/server"))
	if certPath == "" {
		return tlsconfig.TLSClientConfig(bundle, server), nil
	}
	svid, err := x509svid.Load(certPath, keyPath)
	if err != nil {
		return nil, fmt.Errorf("%w: --cert, --key: %v", errUsage, err)
	}
	return tlsconfig.MTLSClientConfig(svid, bundle, server), nil
}

func call(ctx context.Context, conn *grpc.ClientConn, method protoreflect.MethodDescriptor, request proto.Message) error {
	path := fmt.Sprintf("/%s/%s", method.Parent().FullName(), method.Name())
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{
		StreamName: string(method.Name()), ServerStreams: method.IsStreamingServer(), ClientStreams: method.IsStreamingClient(),
	}, path)
	if err != nil {
		return refusal(path, err)
	}
	if err := stream.SendMsg(request); err != nil && !errors.Is(err, io.EOF) {
		return refusal(path, err)
	}
	if err := stream.CloseSend(); err != nil {
		return refusal(path, err)
	}
	for answered := false; ; answered = true {
		response := dynamicpb.NewMessage(method.Output())
		if err := stream.RecvMsg(response); errors.Is(err, io.EOF) && answered {
			return nil
		} else if err != nil {
			return refusal(path, err)
		}
		text, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(response)
		if err != nil {
			return err
		}
		emit("response", fields{"method": strings.TrimPrefix(path, "/"), "response": json.RawMessage(text)})
		if !method.IsStreamingServer() {
			return nil
		}
	}
}

// refusal keeps the gRPC code in the text, for a test to look at.
func refusal(path string, err error) error {
	s := status.Convert(err)
	return fmt.Errorf("%s: %s: %s", path, s.Code(), s.Message())
}
