package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/gateway-api/conformance/utils/echo"
)

// Every protocol of the server, by the client, read with upstream's parser.
func TestWhatTheSuiteReads(t *testing.T) {
	addresses := serve(t)
	hostname, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name, kind, url string
		flags           []string
		want            echo.Response
		headers         http.Header
	}{
		{
			name: "http", kind: "http", url: "http://%s/a/b?c=d", flags: []string{"--method=PUT", "-H", "X-Two:one", "-H", "X-Two:two", "-H", "Host:echo.example"},
			want:    echo.Response{Code: "200", Host: "echo.example", URL: "/a/b?c=d", Method: "PUT", Protocol: "HTTP/1.1"},
			headers: http.Header{"X-Two": {"one", "two"}},
		},
		{name: "h2c", kind: "http", url: "http://%s/", flags: []string{"--http2"}, want: echo.Response{Code: "200", URL: "/", Method: "GET", Protocol: "HTTP/2.0"}},
		{name: "https", kind: "https", url: "https://%s/", want: echo.Response{Code: "200", URL: "/", Method: "GET", Protocol: "HTTP/2.0"}},
		{
			name: "grpc", kind: "grpc", url: "grpc://%s", flags: []string{"-H", "X-Two:one", "-H", "x-two:two", "-H", "Host:grpc.example"},
			want:    echo.Response{Code: "200", Host: "grpc.example", URL: grpcMethod, Method: "POST", Protocol: "GRPC"},
			headers: http.Header{"X-Two": {"one", "two"}},
		},
		{name: "tcp", kind: "tcp", url: "tcp://%s", want: echo.Response{Code: "200", Protocol: "TCP"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			address := addresses[tc.kind].String()
			output := call(t, append([]string{fmt.Sprintf(tc.url, address)}, tc.flags...)...)
			got := echo.ParseResponse(output)
			if tc.want.Host == "" && tc.name != "tcp" {
				tc.want.Host = address
			}
			for _, field := range [][3]string{
				{"Code", tc.want.Code, got.Code},
				{"Host", tc.want.Host, got.Host},
				{"URL", tc.want.URL, got.URL},
				{"Method", tc.want.Method, got.Method},
				{"Protocol", tc.want.Protocol, got.Protocol},
				{"Hostname", hostname, got.Hostname},
				{"IP", "127.0.0.1", got.IP},
			} {
				if field[1] != field[2] {
					t.Errorf("%s: want %q, got %q in\n%s", field[0], field[1], field[2], output)
				}
			}
			for name, want := range tc.headers {
				if got := got.RequestHeaders.Values(name); !slices.Equal(want, got) {
					t.Errorf("%s: want %v, got %v in\n%s", name, want, got, output)
				}
			}
		})
	}
}

func TestTheSuitesArgumentsAndItsSeparator(t *testing.T) {
	output := call(t, fmt.Sprintf("http://%s/", serve(t)["http"]), "--method=GET", "-H", "a:b", "--count=3")
	// Upstream splits a batch at blank lines (parseMultipleResponses) and wants as many answers as it asked for.
	sections := strings.Split(strings.TrimSpace(output), "\n\n")
	if len(sections) != 3 {
		t.Fatalf("want 3 answers, got %d in\n%s", len(sections), output)
	}
	for i, section := range sections {
		got := echo.ParseResponse(section)
		if got.Code != "200" || got.Hostname == "" || !strings.HasPrefix(section, fmt.Sprintf("[%d] Url=", i)) {
			t.Errorf("answer %d:\n%s", i, section)
		}
	}
}

func TestARedirectIsNotFollowed(t *testing.T) {
	redirecting := httptest.NewServer(http.RedirectHandler("http://elsewhere.example/new", http.StatusFound))
	defer redirecting.Close()
	got := echo.ParseResponse(call(t, redirecting.URL))
	if got.Code != "302" || got.ResponseHeaders.Get("Location") != "http://elsewhere.example/new" {
		t.Errorf("got %s", got)
	}
}

func TestACallThatFailsIsAnError(t *testing.T) {
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := closed.Addr().String()
	_ = closed.Close()
	for _, arguments := range [][]string{
		{"http://" + address}, {"grpc://" + address, "--timeout=2s"}, {"tcp://" + address}, {"gopher://" + address},
		{}, {"http://a", "http://b"}, {"http://a", "-H", "no-colon"},
	} {
		asked, err := parseCalls(arguments)
		if err == nil {
			err = asked.run(t.Context(), new(bytes.Buffer))
		}
		if err == nil {
			t.Errorf("%v: no error", arguments)
		}
	}
}

func TestDefaultsAndFlagsOfTheServer(t *testing.T) {
	for _, tc := range []struct {
		arguments []string
		want      string
	}{
		{nil, "http [8080] grpc [7070] tcp [9090] tls []"},
		// As in upstream's manifest.
		{
			[]string{"--tcp=9090", "--port=8080", "--grpc=7070", "--port=8443", "--tls=8443", "--crt=/cert.crt", "--key=/cert.key"},
			"http [8080 8443] grpc [7070] tcp [9090] tls [8443]",
		},
	} {
		got, err := parseSettings(tc.arguments)
		if err != nil {
			t.Fatal(err)
		}
		if said := fmt.Sprintf("http %v grpc %v tcp %v tls %v", &got.http, &got.grpc, &got.tcp, &got.tls); said != tc.want {
			t.Errorf("%v: %s", tc.arguments, said)
		}
	}
	for _, wrong := range []string{"--port=0x", "--port=70000", "--unknown"} {
		if _, err := parseSettings([]string{wrong}); err == nil {
			t.Errorf("%s: no error", wrong)
		}
	}
}

// serve starts a server on loopback: http, https, grpc and tcp, each on a port of the system's choice.
func serve(t *testing.T) map[string]net.Addr {
	t.Helper()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	secure := free.Addr().(*net.TCPAddr).Port
	_ = free.Close()
	crt, key := pair(t)
	running, err := start(settings{
		host: "127.0.0.1", http: ports{numbers: []int{0, secure}}, grpc: ports{numbers: []int{0}}, tcp: ports{numbers: []int{0}},
		tls: ports{numbers: []int{secure}}, crt: crt, key: key,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(running.close)
	return running.addresses
}

// pair writes a self-signed certificate and its key.
func pair(t *testing.T) (string, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"echo"}}
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	folder := t.TempDir()
	write := func(name, kind string, der []byte) string {
		path := filepath.Join(folder, name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	return write("cert.crt", "CERTIFICATE", der), write("cert.key", "PRIVATE KEY", private)
}

// call runs the client and returns what it prints.
func call(t *testing.T, arguments ...string) string {
	t.Helper()
	asked, err := parseCalls(arguments)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := asked.run(ctx, &out); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// Every kind of client sends its part, and what is not the expected answer is lost.
func TestLoadCountsWhatIsLost(t *testing.T) {
	address := serve(t)["http"].String()
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := closed.Addr().String()
	closed.Close()
	for _, tc := range []struct {
		name, host string
		status     int
		lost       int
	}{
		{"all is well", address, 200, 0},
		{"another status", address, 503, 40},
		{"nobody answers", nobody, 200, 40},
		{"nobody is to answer", nobody, 0, 0},
		{"somebody answers who should not", address, 0, 40},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var out bytes.Buffer
			arguments := []string{"--requests=40", "--rate=1000", fmt.Sprintf("--status=%d", tc.status), "http://" + tc.host + "/"}
			load, err := parseLoad(arguments)
			if err != nil {
				t.Fatal(err)
			}
			if err := load.run(context.Background(), &out); (err != nil) != (tc.lost > 0) {
				t.Errorf("%v", err)
			}
			sent, lost, lines := 0, 0, 0
			for line := range bytes.Lines(out.Bytes()) {
				var one tally
				if err := json.Unmarshal(line, &one); err != nil {
					t.Fatal(err)
				}
				sent, lost, lines = sent+one.Sent, lost+one.Lost, lines+1
				if one.Sent != 10 {
					t.Errorf("%s has sent %d", one.Client, one.Sent)
				}
			}
			if sent != 40 || lost != tc.lost || lines != 4 {
				t.Errorf("%d sent, %d lost, %d lines: %s", sent, lost, lines, &out)
			}
		})
	}
}
