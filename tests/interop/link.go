package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/bufbuild/protocompile"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"
)

const (
	linkProto   = "mintmark/attestor/v1/attestor.proto"
	linkService = "mintmark.attestor.v1.Attestor"
	linkLine    = 1 << 20
)

// linkCommand is a node on Mintmark's node link that says whatever its caller wants it to say: lines of standard input are
// FromNode messages in protobuf's JSON, and each ToNode message is a line. It knows nothing of the link but the .proto
// files. At the end of the input it ends the stream, and fails when the server ended it before.
func linkCommand(ctx context.Context, args []string) error {
	fs := flags("link")
	server := fs.String("server", "", "the server's `address`; its certificate must be of /spire/server")
	bundle := fs.String("bundle", "", "the trust bundle, a `file` of PEM or SPIFFE JSON")
	domain := fs.String("trust-domain", "", "the trust domain")
	cert := fs.String("cert", "", "the node's SVID, a PEM `file`")
	key := fs.String("key", "", "its key, a PEM `file`")
	protos := fs.String("proto", "", "the `directory` of the .proto files")
	if err := parse(fs, args, "server", "bundle", "trust-domain", "cert", "key", "proto"); err != nil {
		return err
	}
	method, err := linkMethod(ctx, *protos)
	if err != nil {
		return fmt.Errorf("%w: --proto: %v", errUsage, err)
	}
	config, err := serverTLS(*domain, *bundle, *cert, *key)
	if err != nil {
		return err
	}
	conn, err := grpc.NewClient(*server, grpc.WithTransportCredentials(credentials.NewTLS(config)))
	if err != nil {
		return err
	}
	defer conn.Close()
	path := fmt.Sprintf("/%s/%s", linkService, method.Name())
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{StreamName: "Link", ServerStreams: true, ClientStreams: true}, path)
	if err != nil {
		return refusal(path, err)
	}

	ended := make(chan error, 1)
	go func() { ended <- hear(stream, method) }()
	said := make(chan error, 1)
	go func() { said <- say(stream, method) }()
	select {
	case err := <-ended:
		emit("ended", fields{"code": status.Code(err).String(), "message": status.Convert(err).Message()})
		return refusal(path, err)
	case err := <-said:
		return err
	}
}

func linkMethod(ctx context.Context, protos string) (protoreflect.MethodDescriptor, error) {
	compiler := protocompile.Compiler{
		Resolver: protocompile.WithStandardImports(&protocompile.SourceResolver{ImportPaths: []string{protos}}),
	}
	files, err := compiler.Compile(ctx, linkProto)
	if err != nil {
		return nil, err
	}
	found, _ := files.FindFileByPath(linkProto).FindDescriptorByName(linkService).(protoreflect.ServiceDescriptor)
	if found == nil || found.Methods().ByName("Link") == nil {
		return nil, fmt.Errorf("%s has no %s/Link", linkProto, linkService)
	}
	return found.Methods().ByName("Link"), nil
}

// hear prints what the server says, until it ends the stream.
func hear(stream grpc.ClientStream, method protoreflect.MethodDescriptor) error {
	for {
		message := dynamicpb.NewMessage(method.Output())
		if err := stream.RecvMsg(message); errors.Is(err, io.EOF) {
			return errors.New("the server ended the stream")
		} else if err != nil {
			return err
		}
		text, err := protojson.MarshalOptions{UseProtoNames: true, EmitUnpopulated: true}.Marshal(message)
		if err != nil {
			return err
		}
		emit("message", fields{"message": json.RawMessage(text)})
	}
}

// say sends the lines of standard input, until it ends.
func say(stream grpc.ClientStream, method protoreflect.MethodDescriptor) error {
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, linkLine)
	for lines.Scan() {
		message := dynamicpb.NewMessage(method.Input())
		if err := protojson.Unmarshal(lines.Bytes(), message); err != nil {
			return fmt.Errorf("%w: %v", errUsage, err)
		}
		if err := stream.SendMsg(message); errors.Is(err, io.EOF) {
			select {} // The server has ended the stream: hear tells why.
		} else if err != nil {
			return err
		}
	}
	return errors.Join(lines.Err(), stream.CloseSend())
}
