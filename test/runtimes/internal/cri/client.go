// Package cri is a small client of the Container Runtime Interface, by which the kubelet speaks to containerd and CRI-O:
// as much of it as tests of CNI plugins need.
//
// It speaks gRPC by net/http, and encodes its few messages by hand: the usual libraries would be the largest of this
// module's dependencies. The numbers of the fields are those of k8s.io/cri-api/pkg/apis/runtime/v1/api.proto; they do not
// change.
package cri

import (
	stdbytes "bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
)

// Client speaks to one runtime. Its methods may be called from several goroutines at once.
type Client struct {
	http *http.Client
}

// New returns a client that gets its connections from dial. Nothing is sent yet.
func New(dial func(context.Context) (net.Conn, error)) *Client {
	protocols := &http.Protocols{}
	protocols.SetUnencryptedHTTP2(true)
	return &Client{&http.Client{Transport: &http.Transport{
		Protocols:   protocols,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
	}}}
}

// Close closes the connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Error is a refusal by the runtime.
type Error struct {
	Method  string
	Code    string // a number, see https://grpc.io/docs/guides/status-codes/
	Message string
}

func (e *Error) Error() string { return fmt.Sprintf("%s: %s (code %s)", e.Method, e.Message, e.Code) }

// call is one unary call as https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md has it.
func (c *Client) call(ctx context.Context, method string, in message) (fields, error) {
	body := binary.BigEndian.AppendUint32([]byte{0}, uint32(len(in)))
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://runtime/runtime.v1.RuntimeService/"+method,
		stdbytes.NewReader(append(body, in...)))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/grpc")
	req.Header.Set("TE", "trailers")
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", method, errors.Unwrap(err))
	}
	defer resp.Body.Close()
	out, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", method, err)
	}
	status := resp.Trailer // or, where there is no body, the header
	if status.Get("Grpc-Status") == "" {
		status = resp.Header
	}
	if code := status.Get("Grpc-Status"); code != "0" {
		text, err := url.PathUnescape(status.Get("Grpc-Message"))
		if err != nil {
			text = status.Get("Grpc-Message")
		}
		return nil, &Error{method, code, text}
	}
	if len(out) < 5 || out[0] != 0 || binary.BigEndian.Uint32(out[1:]) != uint32(len(out)-5) {
		return nil, fmt.Errorf("%s: the answer is not one plain message", method)
	}
	got, err := parse(out[5:])
	if err != nil {
		return nil, fmt.Errorf("%s: %w", method, err)
	}
	return got, nil
}
