package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

// load is steady traffic of strict clients: HTTP/1.1 and HTTP/2 (with prior knowledge), each on kept and on new connections. A request is
// lost if its answer is not the expected one, whatever the reason: nothing is tried again.
type load struct {
	url      string
	requests int
	rate     float64
	status   int
	timeout  time.Duration
	http1    bool
	lost     int
}

// tally is what one client has counted; it is also what is printed.
type tally struct {
	Client   string   `json:"client"`
	Sent     int      `json:"sent"`
	Lost     int      `json:"lost"`
	Slowest  float64  `json:"slowest_ms"`
	Examples []string `json:"examples,omitempty"`
}

const (
	// Each kind of client so many times.
	each = 2
	// Losses that are told in words, of each client.
	told = 5
)

func parseLoad(arguments []string) (load, error) {
	l := load{}
	flags := flag.NewFlagSet("load", flag.ContinueOnError)
	flags.IntVar(&l.requests, "requests", 1000, "how many requests, in all")
	flags.Float64Var(&l.rate, "rate", 100, "requests in a second, in all")
	flags.IntVar(&l.status, "status", http.StatusOK, "the expected status; 0: none, every connection has to fail")
	flags.BoolVar(&l.http1, "http1", false, "without HTTP/2")
	flags.DurationVar(&l.timeout, "timeout", 10*time.Second, "for each request")
	if err := flags.Parse(arguments); err != nil {
		return load{}, err
	}
	if flags.NArg() != 1 || l.requests < 1 || l.rate <= 0 {
		return load{}, errors.New("usage: load [--requests N] [--rate N] [--status N] [--timeout D] [--http1] http://HOST[:PORT]/PATH")
	}
	l.url = flags.Arg(0)
	return l, nil
}

// run prints a line of JSON for each kind of client; an error means that something was lost.
func (l load) run(ctx context.Context, out io.Writer) error {
	kinds := []struct {
		name       string
		http2, new bool
	}{{"HTTP/1.1 kept", false, false}, {"HTTP/1.1 new", false, true}, {"HTTP/2 kept", true, false}, {"HTTP/2 new", true, true}}
	if l.http1 {
		kinds = kinds[:2]
	}
	workers := len(kinds) * each
	pace := time.Duration(float64(time.Second) * float64(workers) / l.rate)
	tallies := make([]tally, workers)
	var group sync.WaitGroup
	for at := range workers {
		kind := kinds[at%len(kinds)]
		requests := l.requests / workers
		if at < l.requests%workers {
			requests++
		}
		group.Go(func() {
			// Not all at once.
			time.Sleep(pace * time.Duration(at) / time.Duration(workers))
			tallies[at] = l.work(ctx, kind.http2, kind.new, requests, pace)
		})
	}
	group.Wait()
	encoder := json.NewEncoder(out)
	for at, kind := range kinds {
		all := tally{Client: kind.name}
		for worker := at; worker < workers; worker += len(kinds) {
			one := tallies[worker]
			all.Sent, all.Lost, all.Slowest = all.Sent+one.Sent, all.Lost+one.Lost, max(all.Slowest, one.Slowest)
			all.Examples = append(all.Examples, one.Examples...)
		}
		l.lost += all.Lost
		if err := encoder.Encode(all); err != nil {
			return err
		}
	}
	if l.lost > 0 {
		return fmt.Errorf("%d of %d requests were lost", l.lost, l.requests)
	}
	return ctx.Err()
}

func (l load) work(ctx context.Context, http2, fresh bool, requests int, pace time.Duration) tally {
	t := tally{}
	client := l.client(http2, fresh)
	started := time.Now()
	ticker := time.NewTicker(pace)
	defer ticker.Stop()
	for t.Sent < requests && ctx.Err() == nil {
		begun := time.Now()
		err := l.ask(ctx, client)
		took := time.Since(begun)
		t.Sent++
		t.Slowest = max(t.Slowest, float64(took.Microseconds())/1000)
		if err != nil && ctx.Err() == nil {
			t.Lost++
			if len(t.Examples) < told {
				t.Examples = append(t.Examples, fmt.Sprintf("after %.2f s, %.0f ms: %v", time.Since(started).Seconds(), took.Seconds()*1000, err))
			}
		}
		if http2 && fresh {
			client.CloseIdleConnections()
			client = l.client(http2, fresh)
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
		}
	}
	client.CloseIdleConnections()
	return t
}

// client has connections of its own. Go tries a request again on another connection if a kept one was closed under it before an answer;
// as any client may, since it is idempotent.
func (l load) client(http2, fresh bool) *http.Client {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(!http2)
	protocols.SetUnencryptedHTTP2(http2)
	return &http.Client{
		Timeout: l.timeout,
		Transport: &http.Transport{
			DialContext:        (&net.Dialer{Timeout: l.timeout}).DialContext,
			DisableKeepAlives:  fresh && !http2,
			DisableCompression: true,
			Protocols:          protocols,
			TLSNextProto:       map[string]func(string, *tls.Conn) http.RoundTripper{},
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

func (l load) ask(ctx context.Context, client *http.Client) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, l.url, nil)
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if l.status == 0 {
		if err == nil {
			response.Body.Close()
			return fmt.Errorf("an answer with status %d, and none was expected", response.StatusCode)
		}
		return nil
	}
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		return err
	}
	if response.StatusCode != l.status {
		return fmt.Errorf("status %d, not %d", response.StatusCode, l.status)
	}
	return nil
}
