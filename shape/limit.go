package shape

import (
	"fmt"
	"strconv"
)

// Limit is what may pass in one direction. The zero value is no limit.
type Limit struct {
	Rate  uint64 `json:"rate"`  // bit/s
	Burst uint64 `json:"burst"` // bytes that may pass at once after a pause; 0 is what fits the rate, see [Limit.Complete]
	// Held says that an administrator has set this limit, none if Rate is 0: [Check] takes it in place of any other one.
	Held bool `json:"held,omitempty"`
}

// String is the rate in the largest unit that suits it, and whether it is held.
func (l Limit) String() string {
	s := "no limit"
	if l.Rate > 0 {
		unit, units := 0, []string{"bit/s", "kbit/s", "Mbit/s", "Gbit/s", "Tbit/s"}
		n := float64(l.Rate)
		for n >= 1000 && unit < len(units)-1 {
			n, unit = n/1000, unit+1
		}
		s = strconv.FormatFloat(n, 'f', -1, 64) + " " + units[unit]
	}
	if l.Held {
		s += " (set by hand)"
	}
	return s
}

// Limits are those of both directions, as the device sees them: the host end of a pod sends what the pod receives.
type Limits struct {
	Out Limit `json:"out"` // what it sends
	In  Limit `json:"in"`  // what it receives
}

const (
	header  = 14   // bytes of an Ethernet header, which count
	minRate = 8    // bit/s: the kernel counts whole bytes
	maxRate = 1e15 // bit/s

	burstTime   = 20        // milliseconds at the rate
	queueTime   = 50        // milliseconds at the rate
	leastBurst  = 10        // packets: TCP's initial window (RFC 6928)
	leastQueue  = 16        // packets
	offloaded   = 2 * 65536 // bytes: what is sent as one packet and cut later
	milliPerSec = 1000
)

// LeastBurst is the smallest burst, in bytes, that lets a packet of a device with that MTU pass: smaller ones lose every packet
// of full size.
func LeastBurst(mtu int) uint64 { return uint64(mtu) + header }

// Complete puts a burst in the place of 0: 20 ms at the rate, at least ten packets.
func (l Limit) Complete(mtu int) Limit {
	if l.Rate > 0 && l.Burst == 0 {
		l.Burst = min(max(l.Rate/8*burstTime/milliPerSec, leastBurst*LeastBurst(mtu)), 1<<32-1)
	}
	return l
}

// queue is how many bytes wait at most: 50 ms at the rate, at least 16 packets, and as much as may come as one.
func (l Limit) queue(mtu int) uint32 {
	return uint32(min(max(l.Rate/8*queueTime/milliPerSec, leastQueue*LeastBurst(mtu))+min(l.Burst, offloaded), 1<<32-1))
}

// Validate refuses what the kernel would not take, or would take and let nothing through a device with that MTU; 0 where it
// is not known.
func (l Limit) Validate(mtu int) error {
	switch {
	case l.Rate == 0 && l.Burst != 0:
		return fmt.Errorf("a burst of %d bytes without a rate", l.Burst)
	case l.Rate == 0:
		return nil
	case l.Rate < minRate || l.Rate > maxRate:
		return fmt.Errorf("a rate of %d bit/s: want %d to %d", l.Rate, minRate, uint64(maxRate))
	case l.Burst > 1<<32-1:
		return fmt.Errorf("a burst of %d bytes: want at most %d", l.Burst, uint32(1<<32-1))
	case mtu != 0 && l.Burst != 0 && l.Burst < LeastBurst(mtu):
		return fmt.Errorf("a burst of %d bytes lets no packet of the MTU %d pass: want at least %d bytes, which are %d bit", l.Burst, mtu, LeastBurst(mtu), 8*LeastBurst(mtu))
	}
	return nil
}
