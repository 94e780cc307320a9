//go:build linux

package main

import (
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/netns"
)

// end is one end of a path: sockets are made in its namespace.
type end struct {
	ns   *netns.NS
	addr netip.Addr
}

// measure is something that can be measured between two ends.
type measure struct {
	name, unit string
	run        func(from, to end) (float64, error)
}

// measures, each of which takes well below a second. The first three serve both ends from one thread: the kernel delivers
// a packet before the call that sent it returns, so the time is that of the path, without waking anybody up.
var measures = []measure{
	{"UDP round trip", "µs", udpRoundTrip},
	{"TCP round trip", "µs", tcpRoundTrip},
	{"TCP connect and round trip", "µs", connectRoundTrip},
	{"UDP packets of 64 bytes", "1000/s", packetRate},
	{"TCP throughput, one stream", "Gbit/s", throughput},
}

const (
	roundTrips  = 3000
	connects    = 300
	rateTime    = 200 * time.Millisecond
	streamTime  = 300 * time.Millisecond
	patience    = 2 * time.Second // for a packet
	bufferBytes = 8 << 20
)

func udpRoundTrip(from, to end) (float64, error) {
	a, b, err := udpPair(from, to)
	if err != nil {
		return 0, err
	}
	defer closeAll(a, b)
	return roundTrip(a, b)
}

func tcpRoundTrip(from, to end) (float64, error) {
	l, err := listen(to)
	if err != nil {
		return 0, err
	}
	defer closeAll(l)
	a, b, err := connect(from, to, l)
	if err != nil {
		return 0, err
	}
	defer closeAll(a, b)
	return roundTrip(a, b)
}

// roundTrip is the mean time of one byte to the other end and one back, in microseconds.
func roundTrip(a, b int) (float64, error) {
	for range roundTrips / 10 { // warm up
		if err := there(a, b); err != nil {
			return 0, err
		}
	}
	start := time.Now()
	for range roundTrips {
		if err := there(a, b); err != nil {
			return 0, err
		}
	}
	return microseconds(time.Since(start)) / roundTrips, nil
}

// there sends one byte to the other end and one back.
func there(a, b int) error { return errors.Join(pass(a, b), pass(b, a)) }

func pass(from, to int) error {
	var one [1]byte
	if _, err := unix.Write(from, one[:]); err != nil {
		return fmt.Errorf("send: %w", err)
	}
	for {
		n, err := unix.Read(to, one[:])
		switch {
		case err == unix.EINTR:
		case err != nil:
			return fmt.Errorf("receive: %w", err)
		case n == 0:
			return errors.New("the other end hung up")
		default:
			return nil
		}
	}
}

func connectRoundTrip(from, to end) (float64, error) {
	l, err := listen(to)
	if err != nil {
		return 0, err
	}
	defer closeAll(l)
	var sum time.Duration
	for range connects {
		took, err := connectOnce(from, to, l)
		if err != nil {
			return 0, err
		}
		sum += took
	}
	return microseconds(sum) / connects, nil
}

// connectOnce is the time from a socket that is there to the first reply.
func connectOnce(from, to end, listener int) (time.Duration, error) {
	a, err := socket(from, unix.SOCK_STREAM)
	if err != nil {
		return 0, err
	}
	defer closeAll(a)
	start := time.Now()
	b, err := join(a, to, listener)
	if err != nil {
		return 0, err
	}
	defer closeAll(b)
	err = there(a, b)
	took := time.Since(start)
	// A reset leaves no port behind in TIME-WAIT.
	return took, errors.Join(err, unix.SetsockoptLinger(a, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}))
}

// packetRate is how many thousand packets a second arrive.
func packetRate(from, to end) (float64, error) {
	a, b, err := udpPair(from, to)
	if err != nil {
		return 0, err
	}
	defer closeAll(a, b)
	var payload [64]byte
	stop, sent := flood(func() error {
		_, err := unix.Write(a, payload[:])
		if err == unix.ENOBUFS || err == unix.ECONNREFUSED {
			return nil
		}
		return err
	})
	arrived, took, err := drain(b, rateTime, func(int) int { return 1 })
	close(stop)
	return float64(arrived) / 1000 / took.Seconds(), errors.Join(err, <-sent)
}

// throughput is that of one stream, in Gbit/s.
func throughput(from, to end) (float64, error) {
	l, err := listen(to)
	if err != nil {
		return 0, err
	}
	defer closeAll(l)
	a, b, err := connect(from, to, l)
	if err != nil {
		return 0, err
	}
	payload := make([]byte, 128<<10)
	stop, sent := flood(func() error {
		_, err := unix.Write(a, payload)
		return err
	})
	arrived, took, err := drain(b, streamTime, func(n int) int { return n })
	close(stop)
	closeAll(b) // the sender waits for nobody
	err = errors.Join(err, ignoreReset(<-sent))
	closeAll(a)
	return float64(arrived) * 8 / 1e9 / took.Seconds(), err
}

func ignoreReset(err error) error {
	if errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET) {
		return nil
	}
	return err
}

// flood calls send over and over on a thread of its own until stop is closed, then reports its error.
func flood(send func() error) (stop chan struct{}, done <-chan error) {
	stop, result := make(chan struct{}), make(chan error, 1)
	var stopped atomic.Bool
	go func() { <-stop; stopped.Store(true) }()
	go func() {
		runtime.LockOSThread()
		for !stopped.Load() {
			if err := send(); err != nil && err != unix.EINTR && err != unix.EAGAIN {
				result <- err
				return
			}
		}
		result <- nil
	}()
	return stop, result
}

// drain sums up what arrives, by the number of its bytes, for that time after the first.
func drain(fd int, limit time.Duration, worth func(bytes int) int) (sum int, took time.Duration, err error) {
	buf := make([]byte, 256<<10)
	var start time.Time
	for {
		n, err := unix.Read(fd, buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return 0, 0, fmt.Errorf("receive: %w", err)
		}
		if start.IsZero() {
			start = time.Now()
			continue
		}
		sum += worth(n)
		if took = time.Since(start); took >= limit {
			return sum, took, nil
		}
	}
}

func microseconds(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }
