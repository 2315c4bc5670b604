package main

import (
	"context"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// The gRPC service `proto.EchoTestService` with its one method, `Echo`.
const (
	grpcService = "proto.EchoTestService"
	grpcMethod  = "/" + grpcService + "/Echo"
)

// Its messages are `EchoRequest{string message = 1}` and `EchoResponse{string message = 1}`. A StringValue has the same bytes.
type (
	echoRequest  = wrapperspb.StringValue
	echoResponse = wrapperspb.StringValue
)

// seen is what a server saw of one request.
type seen struct {
	host, url, method, proto string
	port                     int
	peer                     string
	// Lines `RequestHeader=Name:value`, one for each value, ordered by name; values of one name in the order of arrival.
	headers map[string][]string
}

// lines is the body of an answer. Hostname is the pod's name.
func (s seen) lines(hostname string) string {
	var out strings.Builder
	field := func(name, value string) { fmt.Fprintf(&out, "%s=%s\n", name, oneLine(value)) }
	field("StatusCode", "200")
	field("ServicePort", fmt.Sprint(s.port))
	field("Host", s.host)
	field("URL", s.url)
	field("Method", s.method)
	field("Proto", s.proto)
	if ip, _, err := net.SplitHostPort(s.peer); err == nil {
		field("IP", ip)
	}
	for _, name := range slices.Sorted(maps.Keys(s.headers)) {
		for _, value := range s.headers[name] {
			field("RequestHeader", name+":"+value)
		}
	}
	field("Hostname", hostname)
	return out.String()
}

// oneLine keeps a value from ending its line.
func oneLine(value string) string {
	return strings.NewReplacer("\r", " ", "\n", " ").Replace(value)
}

// serviceDesc is what a generator would write.
func serviceDesc(echo func(context.Context, *echoRequest) (*echoResponse, error)) *grpc.ServiceDesc {
	handler := func(_ any, ctx context.Context, decode func(any) error, intercept grpc.UnaryServerInterceptor) (any, error) {
		request := new(echoRequest)
		if err := decode(request); err != nil {
			return nil, err
		}
		return echo(ctx, request)
	}
	return &grpc.ServiceDesc{ServiceName: grpcService, HandlerType: (*any)(nil), Methods: []grpc.MethodDesc{{MethodName: "Echo", Handler: handler}}}
}
