package bandwidth

import (
	"errors"
	"math"

	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/shape"
)

// rates are as the pod sees them.
type rates struct {
	IngressRate  *uint64 `json:"ingressRate"`  // bit/s
	IngressBurst *uint64 `json:"ingressBurst"` // bit
	EgressRate   *uint64 `json:"egressRate"`
	EgressBurst  *uint64 `json:"egressBurst"`
}

type conf struct {
	rates
	RuntimeConfig struct {
		Bandwidth rates `json:"bandwidth"`
	} `json:"runtimeConfig"`
}

// limits are those of the host end, which sends what the pod receives. Those of the runtime do not count beside one key of the
// netconf itself. A burst must let a packet of that MTU pass.
func limits(r *cni.Request, mtu int) (shape.Limits, error) {
	var c conf
	if err := r.Decode(&c); err != nil {
		return shape.Limits{}, err
	}
	at := ""
	if c.rates == (rates{}) {
		c.rates, at = c.RuntimeConfig.Bandwidth, "runtimeConfig.bandwidth."
	}
	out, errOut := limit(r, mtu, at+"ingress", c.IngressRate, c.IngressBurst)
	in, errIn := limit(r, mtu, at+"egress", c.EgressRate, c.EgressBurst)
	return shape.Limits{Out: out, In: in}, errors.Join(errOut, errIn)
}

const (
	notGiven = math.MaxUint32 // bits: the burst that containerd always sends
	slow     = 100_000        // bit/s: more likely meant in kbit/s
)

func limit(r *cni.Request, mtu int, key string, rateKey, burstKey *uint64) (l shape.Limit, err error) {
	rate, burst := value(rateKey), value(burstKey)
	if burst != notGiven {
		l.Burst = (burst + 7) / 8
	}
	l.Rate = rate
	said := cni.Errorf(cni.ErrConfig, `netconf: keys "%[1]sRate" (bit/s) and "%[1]sBurst" (bit) are %[2]d and %[3]d`, key, rate, burst).Error()
	switch err := l.Validate(mtu); {
	case rate != 0 && burst == 0:
		return l, &cni.Error{Code: cni.ErrConfig, Msg: "if rate is set, burst must also be set", Details: said + "; a burst of 4294967295 is one that fits the rate"}
	case rate == 0 && l.Burst != 0:
		return l, &cni.Error{Code: cni.ErrConfig, Msg: "if burst is set, rate must also be set", Details: said + "; state both or none"}
	case burst/8 >= math.MaxUint32:
		return l, &cni.Error{Code: cni.ErrConfig, Msg: "burst cannot be more than 4GB", Details: said}
	case err != nil:
		return l, &cni.Error{Code: cni.ErrConfig, Msg: err.Error(), Details: said}
	case rate != 0 && rate < slow:
		r.Warn("%s: a full packet takes %.1f seconds; 10 Mbit/s are 10000000", said, 8*float64(shape.LeastBurst(1500))/float64(rate))
	}
	return l, nil
}

func value(key *uint64) uint64 {
	if key == nil {
		return 0
	}
	return *key
}
