package main

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
)

// calls is what the client was asked to send.
type calls struct {
	target  *url.URL
	method  string
	headers headers
	count   int
	timeout time.Duration
	http2   bool
}

// headers is a repeatable flag, `Name:value`.
type headers [][2]string

func (h *headers) String() string { return fmt.Sprint(*h) }

func (h *headers) Set(value string) error {
	name, rest, found := strings.Cut(value, ":")
	if !found || name == "" {
		return fmt.Errorf("%q is not Name:value", value)
	}
	*h = append(*h, [2]string{name, strings.TrimSpace(rest)})
	return nil
}

// parseCalls takes flags before and after the URL, as the suite writes them.
func parseCalls(arguments []string) (calls, error) {
	c := calls{}
	flags := flag.NewFlagSet("client", flag.ContinueOnError)
	flags.StringVar(&c.method, "method", http.MethodGet, "HTTP method")
	flags.Var(&c.headers, "H", "header as Name:value, several times; Host is the authority")
	flags.IntVar(&c.count, "count", 1, "how many requests, one after another")
	flags.DurationVar(&c.timeout, "timeout", 30*time.Second, "for each request")
	flags.BoolVar(&c.http2, "http2", false, "HTTP/2 with prior knowledge for http://")
	var targets []string
	for rest := arguments; len(rest) > 0; {
		if err := flags.Parse(rest); err != nil {
			return calls{}, err
		}
		if rest = flags.Args(); len(rest) > 0 {
			targets, rest = append(targets, rest[0]), rest[1:]
		}
	}
	if len(targets) != 1 {
		return calls{}, errors.New("usage: client URL [--method=GET] [-H Name:value]... [--count=N]; URL is http, https, grpc or tcp")
	}
	var err error
	c.target, err = url.Parse(targets[0])
	return c, err
}

// run prints the requests one after another with a blank line between, and stops at the first that fails.
func (c calls) run(ctx context.Context, out io.Writer) error {
	send, closing, err := c.sender()
	if err != nil {
		return err
	}
	defer closing()
	for i := range c.count {
		var block strings.Builder
		say := func(format string, values ...any) {
			fmt.Fprintf(&block, "[%d] %s\n", i, fmt.Sprintf(format, values...))
		}
		say("Url=%s", c.target)
		for _, header := range c.headers {
			say("Header=%s:%s", header[0], header[1])
		}
		limited, cancel := context.WithTimeout(ctx, c.timeout)
		body, err := send(limited, say)
		cancel()
		if err != nil {
			return fmt.Errorf("request %d to %s: %w", i, c.target, err)
		}
		for line := range strings.Lines(body) {
			if line = strings.TrimRight(line, "\r\n"); line != "" {
				fmt.Fprintf(&block, "[%d body] %s\n", i, line)
			}
		}
		if i > 0 {
			fmt.Fprintln(out)
		}
		if _, err := io.WriteString(out, block.String()); err != nil {
			return err
		}
	}
	return nil
}

// send sends one request, prints what is not the body, and returns the body.
type send = func(context.Context, func(string, ...any)) (string, error)

func (c calls) sender() (send, func(), error) {
	switch c.target.Scheme {
	case "http", "https":
		client := c.httpClient()
		return func(ctx context.Context, say func(string, ...any)) (string, error) {
				return c.sendHTTP(ctx, client, say)
			},
			client.CloseIdleConnections, nil
	case "grpc":
		connection, err := grpc.NewClient("passthrough:///"+c.target.Host, grpc.WithTransportCredentials(insecure.NewCredentials()), c.authority())
		if err != nil {
			return nil, nil, err
		}
		return func(ctx context.Context, say func(string, ...any)) (string, error) {
				return c.sendGRPC(ctx, connection, say)
			},
			func() { _ = connection.Close() }, nil
	case "tcp":
		return c.sendTCP, func() {}, nil
	default:
		return nil, nil, fmt.Errorf("%q is not a scheme that this client speaks: http, https, grpc, tcp", c.target.Scheme)
	}
}

// httpClient makes a connection for each request, so that a weighted backend is chosen for each, and follows no redirect.
func (c calls) httpClient() *http.Client {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(!c.http2)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(c.http2)
	return &http.Client{
		Transport: &http.Transport{
			DisableKeepAlives:  !c.http2,
			DisableCompression: true,
			Protocols:          protocols,
			// The server's certificate is self-signed: this client is for tests.
			TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, //nolint:gosec
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

func (c calls) sendHTTP(ctx context.Context, client *http.Client, say func(string, ...any)) (string, error) {
	request, err := http.NewRequestWithContext(ctx, c.method, c.target.String(), nil)
	if err != nil {
		return "", err
	}
	for _, header := range c.headers {
		if strings.EqualFold(header[0], "host") {
			request.Host = header[1]
		} else {
			request.Header.Add(header[0], header[1])
		}
	}
	response, err := client.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return "", err
	}
	say("StatusCode=%d", response.StatusCode)
	sayHeaders(say, response.Header)
	return string(body), nil
}

func sayHeaders(say func(string, ...any), fields map[string][]string) {
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		for _, value := range fields[name] {
			say("ResponseHeader=%s:%s", name, value)
		}
	}
}

// authority is the Host header if one was given.
func (c calls) authority() grpc.DialOption {
	for _, header := range c.headers {
		if strings.EqualFold(header[0], "host") {
			return grpc.WithAuthority(header[1])
		}
	}
	return grpc.EmptyDialOption{}
}

// sendGRPC reports OK as 200: the suite maps it so.
func (c calls) sendGRPC(ctx context.Context, connection *grpc.ClientConn, say func(string, ...any)) (string, error) {
	for _, header := range c.headers {
		if !strings.EqualFold(header[0], "host") {
			ctx = metadata.AppendToOutgoingContext(ctx, strings.ToLower(header[0]), header[1])
		}
	}
	var fields metadata.MD
	response := new(echoResponse)
	if err := connection.Invoke(ctx, grpcMethod, &echoRequest{Value: "echo"}, response, grpc.Header(&fields)); err != nil {
		return "", err
	}
	say("StatusCode=200")
	sayHeaders(say, fields)
	return response.GetValue(), nil
}

func (c calls) sendTCP(ctx context.Context, say func(string, ...any)) (string, error) {
	connection, err := new(net.Dialer).DialContext(ctx, "tcp", c.target.Host)
	if err != nil {
		return "", err
	}
	defer connection.Close()
	if deadline, ok := ctx.Deadline(); ok {
		_ = connection.SetDeadline(deadline)
	}
	if _, err := io.WriteString(connection, "echo\n"); err != nil {
		return "", err
	}
	if half, ok := connection.(*net.TCPConn); ok {
		_ = half.CloseWrite()
	}
	body, err := io.ReadAll(connection)
	if err != nil {
		return "", err
	}
	say("StatusCode=200")
	return string(body), nil
}
