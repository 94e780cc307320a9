package ipam

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func FuzzALeaseFileReadsAsOneOwnerOrNone(f *testing.F) {
	for _, s := range []string{"", "alice\r\neth0", "alice", "alice\neth0", " alice \r\n eth0 \n", "a\x00", "\xff", "reserved by hand", "\r\neth0", "a\r\nb\r\nc"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		o, ok := parseOwner(b)
		if !ok {
			require.Zero(t, o)
			return
		}
		require.NotEmpty(t, o.ContainerID)
		require.NotContains(t, o.ContainerID+o.IfName, "\n")
		again, ok := parseOwner([]byte(o.content()))
		require.True(t, ok)
		require.Equal(t, o, again)
		// As the reference compares.
		if string(b) == o.ContainerID+"\r\n"+o.IfName {
			require.Equal(t, strings.TrimSpace(string(b)), o.content())
		}
	})
}

func FuzzAnOwnerThatIsAcceptedReadsBackAsItself(f *testing.F) {
	f.Add("alice", "eth0")
	f.Add("a b", "")
	f.Add("a\u0085", "eth0\x00")
	f.Fuzz(func(t *testing.T, id, ifName string) {
		o := Owner{id, ifName}
		if o.check() != nil {
			return
		}
		got, ok := parseOwner([]byte(o.content()))
		require.True(t, ok)
		require.Equal(t, o, got)
		require.NotEmpty(t, ifName)
	})
}

func FuzzASlotReadsBackAsItselfOrIsGarbage(f *testing.F) {
	var b [slotSize]byte
	f.Add(b[:])
	slot{keyOf(Owner{"alice", "eth0"}), addr("10.1.0.2"), identity{7, -8}, 9}.put(b[:])
	f.Add(b[:])
	f.Fuzz(func(t *testing.T, b []byte) {
		s, inUse, valid := parseSlot(b)
		if !valid {
			require.Zero(t, s)
			return
		}
		require.True(t, inUse)
		var out [slotSize]byte
		s.put(out[:])
		require.Equal(t, b[:slotSize], out[:])
	})
}

func FuzzATableOfWhateverOriginIsReadWithoutPanic(f *testing.F) {
	f.Add([]byte(newTable(nil)[:200]), uint8(3))
	f.Fuzz(func(t *testing.T, b []byte, home uint8) {
		slots := table(b).all()
		require.LessOrEqual(t, len(slots), len(b)/slotSize)
		r := run{int(home), 1024, b[:len(b)/slotSize*slotSize]}
		if r.len() > 0 && strings.Count(string(b), "\x01") < 50 {
			require.Empty(t, r.without(func(slot) bool { return true }).of(key{}))
		}
	})
}

func FuzzANameOfALeaseFileIsACanonicalAddress(f *testing.F) {
	for _, s := range []string{"10.1.0.2", "fd00::1", "FD00::1", "fe80::1%eth0", "::ffff:10.1.0.2", "lock", "last_reserved_ip.0", "10.1.0.02"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, name string) {
		a, ok := parseName(name)
		if ok {
			require.Equal(t, name, a.String())
			require.NotContains(t, name, "/")
		}
	})
}
