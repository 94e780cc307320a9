package flannel

import (
	"errors"
	"io/fs"

	"github.com/cniblocks/cniblocks/cni"
	"github.com/cniblocks/cniblocks/internal/base/lazyjson"
	"github.com/cniblocks/cniblocks/peer/flannel"
)

// call is a delegate with what it is to be asked.
type call struct {
	cni.Plugin
	*cni.Request
}

func (c *conf) call(r *cni.Request, d lazyjson.Object) (call, error) {
	config, err := handDown(r, d)
	if err != nil {
		return call{}, err
	}
	p, err := r.Delegate(d.Text("type"))
	if err != nil {
		return call{}, err
	}
	to, err := r.With(r.Verb, config)
	return call{p, to}, err
}

// present is the call as subnet.env has it now.
func (c *conf) present(r *cni.Request) (call, error) {
	env, err := flannel.ReadSubnetEnv(c.SubnetFile)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return call{}, cni.Errorf(cni.ErrTryAgain, `netconf: key "subnetFile": %w; start flanneld or 'cniblocks agent' on this node, or look into its log why it does not write the file`, err)
	case err != nil:
		return call{}, cni.Errorf(cni.ErrConfig, `netconf: key "subnetFile": %w`, err)
	}
	d, err := c.render(r, &env)
	if err != nil {
		return call{}, err
	}
	return c.call(r, d)
}

// made is the call as the attachment was made with; without a record of it, as subnet.env has it now.
func (c *conf) made(r *cni.Request) (call, error) {
	if d, ok := c.record(r).read(); ok {
		if r.Verb == cni.DEL {
			c.renew(d)
		}
		return c.call(r, d)
	}
	to, err := c.present(r)
	if err == nil || r.Verb != cni.DEL {
		return to, err
	}
	d, err := c.render(r, nil) // no range is needed to give an address back
	if err != nil {
		return call{}, err
	}
	return c.call(r, d)
}

// renew puts the ranges of this node as they are now in the place of those of a record, where they are known. Nothing of
// the attachment needs them, and a bridge sees by them which of its gateways are former ones.
func (c *conf) renew(d lazyjson.Object) {
	var ipam lazyjson.Object
	env, err := flannel.ReadSubnetEnv(c.SubnetFile)
	if err != nil || lazyjson.Unmarshal(d["ipam"], &ipam) != nil || ipam["ranges"] == nil {
		return
	}
	if now, err := c.ipam(&env); err == nil {
		ipam["ranges"] = now["ranges"]
		_ = d.Put("ipam", ipam)
	}
}

// forGC is what the delegate is asked. It must not take for garbage what valid attachments need, such as SNAT, so that
// without subnet.env one of theirs has to say.
func (c *conf) forGC(r *cni.Request, valid []cni.Attachment) (call, error) {
	to, err := c.present(r)
	if err == nil {
		return to, nil
	}
	for _, a := range valid {
		if d, ok := (record{c.DataDir, r.Network, a}).read(); ok {
			return c.call(r, d)
		}
	}
	if len(r.Valid) > 0 {
		return call{}, err
	}
	d, err := c.render(r, nil)
	if err != nil {
		return call{}, err
	}
	return c.call(r, d)
}
