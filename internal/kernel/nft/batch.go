//go:build linux

package nft

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cniblocks/cniblocks/internal/base/wait"
)

const chunk = 1000 // elements in one message: an attribute holds less than 64 KiB

// ErrChanged says that the ruleset changed since the generation that a batch was made for.
var ErrChanged = errors.New("the nftables ruleset changed meanwhile")

// Batch is a transaction in the making: all of it happens at once, or nothing. The zero value is empty.
type Batch struct {
	msgs  []message
	setID uint32
}

type message struct {
	typ, flags uint16
	family     uint8
	attrs      attrs
	what       string
}

// Empty reports whether there is nothing to do.
func (b *Batch) Empty() bool { return len(b.msgs) == 0 }

func (b *Batch) add(typ, flags uint16, family uint8, a attrs, what string, args ...any) {
	b.msgs = append(b.msgs, message{typ, flags, family, a, fmt.Sprintf(what, args...)})
}

// AddTable makes a table if it is not there.
func (b *Batch) AddTable(t Table) {
	b.add(unix.NFT_MSG_NEWTABLE, unix.NLM_F_CREATE, t.Family, t.attrs(unix.NFTA_TABLE_NAME), "add table %s", t.Title())
}

// WakeTable switches the chains of a table on.
func (b *Batch) WakeTable(t Table) {
	a := t.attrs(unix.NFTA_TABLE_NAME)
	a.u32(unix.NFTA_TABLE_FLAGS, 0)
	b.add(unix.NFT_MSG_NEWTABLE, 0, t.Family, a, "wake table %s", t.Title())
}

// DelTable removes a table and what is in it.
func (b *Batch) DelTable(t Table) {
	b.add(unix.NFT_MSG_DELTABLE, 0, t.Family, t.attrs(unix.NFTA_TABLE_NAME), "delete table %s", t.Title())
}

func (t Table) attrs(typ int) attrs {
	var a attrs
	a.str(typ, t.Name)
	return a
}

// AddChain makes a chain if it is not there.
func (b *Batch) AddChain(c Chain) {
	a := c.Table.attrs(unix.NFTA_CHAIN_TABLE)
	a.str(unix.NFTA_CHAIN_NAME, c.Name)
	if c.Hook != (Hook{}) {
		a.nest(unix.NFTA_CHAIN_HOOK, func(a *attrs) {
			a.u32(unix.NFTA_HOOK_HOOKNUM, uint32(c.Num))
			a.u32(unix.NFTA_HOOK_PRIORITY, uint32(c.Priority))
		})
		a.u32(unix.NFTA_CHAIN_POLICY, c.Policy)
		a.str(unix.NFTA_CHAIN_TYPE, c.Type)
	}
	b.add(unix.NFT_MSG_NEWCHAIN, unix.NLM_F_CREATE, c.Family, a, "add chain %s %s", c.Table.Title(), c.Name)
}

// DelChain removes a chain that no rule refers to, with its rules.
func (b *Batch) DelChain(t Table, name string) {
	b.FlushChain(t, name)
	a := t.attrs(unix.NFTA_CHAIN_TABLE)
	a.str(unix.NFTA_CHAIN_NAME, name)
	b.add(unix.NFT_MSG_DELCHAIN, 0, t.Family, a, "delete chain %s %s", t.Title(), name)
}

// FlushChain removes the rules of a chain.
func (b *Batch) FlushChain(t Table, name string) {
	a := t.attrs(unix.NFTA_RULE_TABLE)
	a.str(unix.NFTA_RULE_CHAIN, name)
	b.add(unix.NFT_MSG_DELRULE, 0, t.Family, a, "flush chain %s %s", t.Title(), name)
}

// AppendRule adds a rule at the end of its chain; its handle is not used.
func (b *Batch) AppendRule(r Rule) { b.rule(r, unix.NLM_F_APPEND) }

// InsertRule adds a rule before all others of its chain.
func (b *Batch) InsertRule(r Rule) { b.rule(r, 0) }

func (b *Batch) rule(r Rule, flags uint16) {
	a := r.Table.attrs(unix.NFTA_RULE_TABLE)
	a.str(unix.NFTA_RULE_CHAIN, r.Chain)
	a.put(unix.NFTA_RULE_EXPRESSIONS|unix.NLA_F_NESTED, r.Exprs.raw)
	if r.Comment != "" {
		a.put(unix.NFTA_RULE_USERDATA, comment(r.Comment))
	}
	b.add(unix.NFT_MSG_NEWRULE, unix.NLM_F_CREATE|flags, r.Family, a, "add a rule to chain %s %s", r.Table.Title(), r.Chain)
}

// DelRule removes a rule by its handle.
func (b *Batch) DelRule(r Rule) {
	a := r.Table.attrs(unix.NFTA_RULE_TABLE)
	a.str(unix.NFTA_RULE_CHAIN, r.Chain)
	a.u64(unix.NFTA_RULE_HANDLE, r.Handle)
	b.add(unix.NFT_MSG_DELRULE, 0, r.Family, a, "delete rule %d of chain %s %s", r.Handle, r.Table.Title(), r.Chain)
}

// AddSet makes a set if it is not there.
func (b *Batch) AddSet(s Set) {
	b.setID++
	a := s.Table.attrs(unix.NFTA_SET_TABLE)
	a.str(unix.NFTA_SET_NAME, s.Name)
	var flags uint32
	if s.Interval {
		flags = unix.NFT_SET_INTERVAL
	}
	if s.Data != (KeyType{}) {
		flags |= unix.NFT_SET_MAP
		a.u32(unix.NFTA_SET_DATA_TYPE, s.Data.ID)
		a.u32(unix.NFTA_SET_DATA_LEN, s.Data.Len)
	}
	a.u32(unix.NFTA_SET_FLAGS, flags)
	a.u32(unix.NFTA_SET_KEY_TYPE, s.Key.ID)
	a.u32(unix.NFTA_SET_KEY_LEN, s.Key.Len)
	a.u32(unix.NFTA_SET_ID, b.setID)
	switch {
	case nftHostKey[s.Key]:
		a.put(unix.NFTA_SET_USERDATA, keyHost)
	case s.Data != (KeyType{}) && s.Data != VerdictMap:
		a.put(unix.NFTA_SET_USERDATA, append(keyBytes[:len(keyBytes):len(keyBytes)], dataBytes...))
	default:
		a.put(unix.NFTA_SET_USERDATA, keyBytes)
	}
	b.add(unix.NFT_MSG_NEWSET, unix.NLM_F_CREATE, s.Family, a, "add set %s %s", s.Table.Title(), s.Name)
}

// DelSet removes a set that no rule refers to.
func (b *Batch) DelSet(t Table, name string) {
	a := t.attrs(unix.NFTA_SET_TABLE)
	a.str(unix.NFTA_SET_NAME, name)
	b.add(unix.NFT_MSG_DELSET, 0, t.Family, a, "delete set %s %s", t.Title(), name)
}

// AddElements puts elements into a set. One that is there fails the transaction with [io/fs.ErrExist].
func (b *Batch) AddElements(t Table, set string, list []Element) {
	b.elements(unix.NFT_MSG_NEWSETELEM, unix.NLM_F_CREATE|unix.NLM_F_EXCL, t, set, list, "add %d elements to set %s %s")
}

// DelElements takes elements out of a set. One that is missing fails the transaction with [io/fs.ErrNotExist].
func (b *Batch) DelElements(t Table, set string, list []Element) {
	b.elements(unix.NFT_MSG_DELSETELEM, 0, t, set, list, "delete %d elements of set %s %s")
}

func (b *Batch) elements(typ, flags uint16, t Table, set string, list []Element, what string) {
	for len(list) > 0 {
		n := min(chunk, len(list))
		a := t.attrs(unix.NFTA_SET_ELEM_LIST_TABLE)
		a.str(unix.NFTA_SET_ELEM_LIST_SET, set)
		b.add(typ, flags, t.Family, append(a, elements(list[:n])...), what, n, t.Title(), set)
		list = list[n:]
	}
}

// Commit applies the batch. If the ruleset is no longer of that generation, nothing happens and it returns
// [ErrChanged]; 0 is any generation. The first error that the kernel reports is returned with what it was about.
func (c *Conn) Commit(generation uint32, b *Batch) error {
	if b.Empty() {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	first := c.seq + 1
	c.seq += uint32(len(b.msgs)) + 2
	var begin attrs
	if generation != 0 {
		begin.u32(unix.NFNL_BATCH_GENID, generation)
	}
	buf := appendMessage(nil, unix.NFNL_MSG_BATCH_BEGIN, unix.NLM_F_REQUEST, first, unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES, begin)
	for i, m := range b.msgs {
		buf = appendMessage(buf, unix.NFNL_SUBSYS_NFTABLES<<8|m.typ, unix.NLM_F_REQUEST|m.flags, first+uint32(i)+1, m.family, 0, m.attrs)
	}
	buf = appendMessage(buf, unix.NFNL_MSG_BATCH_END, unix.NLM_F_REQUEST, c.seq, unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES, nil)
	if err := c.send(buf); err != nil {
		c.hangUp()
		return fmt.Errorf("change nftables: %w", err)
	}
	err := c.verdict(first, b)
	if err != nil && !errors.Is(err, ErrChanged) {
		return fmt.Errorf("change nftables: %w", err)
	}
	return err
}

// Try reports whether the kernel would take the batch, which takes place in no case: a last message that must fail makes
// the kernel take the rest back.
func (c *Conn) Try(fill func(*Batch)) error {
	var b Batch
	fill(&b)
	b.DelTable(Table{Family: INet, Name: "cniblocks-no-such-table"})
	err := c.Commit(0, &b)
	var failed *opError
	if errors.As(err, &failed) && failed.index == len(b.msgs)-1 {
		return nil
	}
	return err
}

// opError is what the kernel says to one message of a batch.
type opError struct {
	message
	index int
	errno unix.Errno
}

func (e *opError) Error() string { return e.what + ": " + e.errno.Error() }

func (e *opError) Unwrap() error { return e.errno }

// Is makes [errors.ErrUnsupported] of a chain type or an expression that the kernel does not find: whatever else a chain
// or a rule of ours refers to is in the same batch.
func (e *opError) Is(target error) bool {
	return target == errors.ErrUnsupported && e.errno == unix.ENOENT && (e.typ == unix.NFT_MSG_NEWCHAIN || e.typ == unix.NFT_MSG_NEWRULE)
}

// verdict reads what is there: the kernel has worked the batch off when the write returns, and reports only errors.
func (c *Conn) verdict(first uint32, b *Batch) (result error) {
	for {
		err := c.receive(unix.MSG_DONTWAIT, func(typ, _ uint16, seq uint32, payload []byte) {
			i := int(seq - first)
			if typ != unix.NLMSG_ERROR || i < 0 || i > len(b.msgs)+1 || result != nil || len(payload) < 4 {
				return
			}
			switch errno := unix.Errno(-int32(binary.NativeEndian.Uint32(payload))); {
			case errno == 0:
			case errno == unix.ERESTART:
				result = ErrChanged
			case i == 0 || i > len(b.msgs):
				result = errno
			default:
				result = &opError{b.msgs[i-1], i - 1, errno}
			}
		})
		switch {
		case err == unix.EAGAIN:
			return result
		case err != nil:
			c.hangUp()
			if result == nil {
				result = err
			}
			return result
		}
	}
}

// Update brings the ruleset to where the caller wants it: plan reads it and adds to the batch what is missing. When
// another writer comes between the reading and the commit, nothing is written and plan is called again, until ctx ends.
// A plan that adds nothing costs no commit.
func (c *Conn) Update(ctx context.Context, plan func(*Batch) error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("change nftables: %w", context.Cause(ctx))
	}
	outrun := false
	err := wait.Until(ctx, 0, 5*time.Millisecond, func() (bool, error) {
		outrun = false
		generation, err := c.Generation()
		if err != nil {
			return false, err
		}
		var b Batch
		if err := plan(&b); err != nil {
			return false, err
		}
		err = c.Commit(generation, &b)
		if outrun = errors.Is(err, ErrChanged); outrun {
			return false, nil
		}
		return true, err
	})
	if outrun {
		return fmt.Errorf("change nftables: %w: %w", ErrChanged, err)
	}
	return err
}
