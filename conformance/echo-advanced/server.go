package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
)

// settings of the server; every list may be given several times.
type settings struct {
	host            string
	http, grpc, tcp ports
	// Those ports of `http`, `grpc` and `tcp` that speak TLS.
	tls      ports
	crt, key string
}

// ports is a repeatable flag. A default holds until the flag is given once.
type ports struct {
	numbers []int
	given   bool
}

func (p *ports) String() string { return fmt.Sprint(p.numbers) }

func (p *ports) Set(value string) error {
	number, err := strconv.ParseUint(value, 10, 16)
	if err != nil {
		return fmt.Errorf("%q is not a port", value)
	}
	if !p.given {
		p.numbers, p.given = nil, true
	}
	p.numbers = append(p.numbers, int(number))
	return nil
}

func parseSettings(arguments []string) (settings, error) {
	s := settings{http: ports{numbers: []int{8080}}, grpc: ports{numbers: []int{7070}}, tcp: ports{numbers: []int{9090}}}
	flags := flag.NewFlagSet("server", flag.ContinueOnError)
	flags.StringVar(&s.host, "host", "", "address to listen on; empty: all")
	flags.Var(&s.http, "port", "HTTP/1.1 and HTTP/2 (with prior knowledge, or by ALPN)")
	flags.Var(&s.grpc, "grpc", "gRPC")
	flags.Var(&s.tcp, "tcp", "TCP: answers the first bytes that arrive, then sends them back")
	flags.Var(&s.tls, "tls", "a port of the others that speaks TLS")
	flags.StringVar(&s.crt, "crt", "/cert.crt", "certificate chain, PEM")
	flags.StringVar(&s.key, "key", "/cert.key", "private key, PEM")
	if err := flags.Parse(arguments); err != nil {
		return settings{}, err
	}
	return s, nil
}

// server holds listeners that are open.
type server struct {
	hostname string
	// Port as in the settings, to the address that is listened on: tests ask for port 0.
	addresses map[string]net.Addr
	stop      []func()
	failed    chan error
}

// start opens every listener before it returns, so a port that is taken is reported.
func start(s settings) (*server, error) {
	hostname, err := os.Hostname()
	if err != nil {
		return nil, err
	}
	out := &server{hostname: hostname, addresses: map[string]net.Addr{}, failed: make(chan error, 16)}
	var pair *tls.Config
	if len(s.tls.numbers) > 0 {
		certificate, err := tls.LoadX509KeyPair(s.crt, s.key)
		if err != nil {
			return nil, err
		}
		pair = &tls.Config{Certificates: []tls.Certificate{certificate}, NextProtos: []string{"h2", "http/1.1"}}
	}
	for _, group := range []struct {
		kind  string
		ports []int
		serve func(net.Listener, int) error
	}{{"http", s.http.numbers, out.serveHTTP}, {"grpc", s.grpc.numbers, out.serveGRPC}, {"tcp", s.tcp.numbers, out.serveTCP}} {
		for _, port := range group.ports {
			listener, err := net.Listen("tcp", net.JoinHostPort(s.host, strconv.Itoa(port)))
			if err != nil {
				out.close()
				return nil, err
			}
			out.stop = append(out.stop, func() { _ = listener.Close() })
			key := group.kind
			if slices.Contains(s.tls.numbers, port) && port != 0 {
				listener, key = tls.NewListener(listener, pair), group.kind+"s"
			}
			out.addresses[key] = listener.Addr()
			go func() { out.failed <- group.serve(listener, listener.Addr().(*net.TCPAddr).Port) }()
		}
	}
	return out, nil
}

// wait serves until the context ends, or a listener fails.
func (s *server) wait(ctx context.Context) error {
	select {
	case <-ctx.Done():
		s.close()
		return nil
	case err := <-s.failed:
		s.close()
		return err
	}
}

func (s *server) close() {
	for _, stop := range s.stop {
		stop()
	}
}

func (s *server) serveHTTP(listener net.Listener, port int) error {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true)
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		_, _ = io.WriteString(w, seen{
			host: r.Host, url: r.URL.RequestURI(), method: r.Method, proto: r.Proto, port: port, peer: r.RemoteAddr, headers: r.Header,
		}.lines(s.hostname))
	})
	plain := http.Server{Handler: handler, Protocols: protocols, ReadHeaderTimeout: 30 * time.Second}
	return plain.Serve(listener)
}

func (s *server) serveGRPC(listener net.Listener, port int) error {
	echo := func(ctx context.Context, _ *echoRequest) (*echoResponse, error) {
		received := seen{url: grpcMethod, method: http.MethodPost, proto: "GRPC", port: port}
		if from, ok := peer.FromContext(ctx); ok {
			received.peer = from.Addr.String()
		}
		if fields, ok := metadata.FromIncomingContext(ctx); ok {
			received.headers = fields.Copy()
			received.host = first(fields.Get(":authority"))
			delete(received.headers, ":authority")
		}
		return &echoResponse{Value: received.lines(s.hostname)}, nil
	}
	grpcServer := grpc.NewServer()
	grpcServer.RegisterService(serviceDesc(echo), nil)
	return grpcServer.Serve(listener)
}

// serveTCP answers once it has a line (or all there is), then echoes.
func (s *server) serveTCP(listener net.Listener, port int) error {
	for {
		connection, err := listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		} else if err != nil {
			return err
		}
		go func() {
			defer connection.Close()
			reader := bufio.NewReader(connection)
			if _, err := reader.Peek(1); err != nil {
				return
			}
			_, _ = io.WriteString(connection, seen{proto: "TCP", port: port, peer: connection.RemoteAddr().String()}.lines(s.hostname))
			_, _ = io.Copy(connection, reader)
		}()
	}
}

func first(values []string) string {
	if len(values) == 0 {
		return ""
	}
	return values[0]
}
