//go:build linux

package rtnl

import (
	"errors"
	"fmt"
	"iter"
	"slices"

	"golang.org/x/sys/unix"
)

const (
	batchSize  = 96 << 10 // bytes; below half of the default send buffer
	batchCount = 128      // messages; a refusal of each takes 1 KiB of the receive buffer, by default 208 KiB
)

// batch is what one system call sends.
type batch struct {
	out   []byte
	asked []asked
}

// asked is what is to be known of a message once it has been copied.
type asked struct {
	at    int // where in the batch it begins
	size  int
	op    string
	about func([]byte) string
	reply func([]byte)
}

// Do sends the messages, in order, in as few system calls as their size allows, and waits until the kernel has carried
// them out. A message that fails does not keep later ones from being carried out; the errors of all are joined.
func (c *Conn) Do(msgs ...*Msg) error { return c.Stream(slices.Values(msgs)) }

// Stream is [Conn.Do] with messages that need not exist at the same time: each is copied when it comes, and may then be
// made another. The sequence must not use c.
func (c *Conn) Stream(msgs iter.Seq[*Msg]) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	defer c.batch.clear() // of a sequence that panics too
	var errs []error
	flush := func() {
		if err := c.flush(); err != nil {
			errs = append(errs, c.named(err))
		}
	}
	for m := range msgs {
		if len(c.batch.asked) == batchCount || len(c.batch.asked) > 0 && len(c.batch.out)+len(m.b) > batchSize {
			flush()
		}
		c.put(m)
	}
	if len(c.batch.asked) > 0 {
		flush()
	}
	return errors.Join(errs...)
}

// put copies a message into the batch.
func (c *Conn) put(m *Msg) {
	b := &c.batch
	c.seq++
	m.seal(m.flags|unix.NLM_F_REQUEST, c.seq)
	b.asked = append(b.asked, asked{len(b.out), len(m.b), m.op, m.about, m.reply})
	b.out = append(b.out, m.b...)
}

// flush sends the batch and reads the answers. An error is always acknowledged, success only where it is asked for: of
// the last message, unless that is a question, whose answer says as much.
func (c *Conn) flush() error {
	b := &c.batch
	defer b.clear()
	first, last := c.seq-uint32(len(b.asked))+1, c.seq
	end := b.out[b.asked[len(b.asked)-1].at:]
	question := native.Uint16(end[4:])&3 == unix.RTM_GETLINK&3 // as of RTM_NEWLINK, RTM_DELLINK, RTM_SETLINK and all others
	if !question {
		native.PutUint16(end[6:], native.Uint16(end[6:])|unix.NLM_F_ACK)
	}
	if err := c.send(b.out); err != nil {
		return fmt.Errorf("%s: %w", b.words(0), err)
	}
	var errs []error
	err := c.receive(func(h header, body []byte) (bool, error) {
		i := int(h.seq - first)
		if i < 0 || i >= len(b.asked) {
			return false, nil
		}
		if h.typ != unix.NLMSG_ERROR {
			if b.asked[i].reply != nil {
				b.asked[i].reply(body)
			}
			return question && h.seq == last, nil
		}
		if err := ackError(func() string { return b.words(i) }, h, body); err != nil {
			errs = append(errs, err)
		}
		return h.seq == last, nil
	})
	return errors.Join(append(errs, err)...)
}

func (b *batch) words(i int) string {
	a := b.asked[i]
	return words(a.op, a.about, b.out[a.at:a.at+a.size])
}

func (b *batch) clear() {
	clear(b.asked)
	b.out, b.asked = b.out[:0], b.asked[:0]
}
