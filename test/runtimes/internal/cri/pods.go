package cri

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// NetworkReady is what the runtime says of the condition of that name; reason tells why not.
func (c *Client) NetworkReady(ctx context.Context) (ready bool, reason string, err error) {
	got, err := c.call(ctx, "Status", nil)
	if err != nil {
		return false, "", err
	}
	status, err := got.sub(1)
	if err != nil {
		return false, "", err
	}
	for _, b := range status.all(1) {
		cond, err := parse(b)
		if err != nil {
			return false, "", err
		}
		if cond.str(1) == "NetworkReady" {
			return cond.num(2) != 0, cond.str(4), nil
		}
	}
	return false, "", errors.New("the runtime has no condition NetworkReady")
}

// Pod is a pod to run. Its namespace is "default".
type Pod struct {
	Name         string
	Attempt      int // higher each time that a pod of this name is made again
	CgroupParent string
	LogDir       string
	HostPorts    map[int]int // TCP port of the node to that of the pod
}

func (p Pod) config() message {
	var meta, linux message
	meta = meta.str(1, p.Name).str(2, "uid-"+p.Name).str(3, "default").num(4, uint64(p.Attempt))
	linux = linux.str(1, p.CgroupParent).sub(2, message{}.sub(1, nil))
	config := message{}.sub(1, meta).str(3, p.LogDir)
	for host, pod := range p.HostPorts {
		config = config.sub(5, message{}.num(2, uint64(pod)).num(3, uint64(host)))
	}
	return config.sub(8, linux)
}

// RunPod makes a pod's sandbox with its network, and returns its ID.
func (c *Client) RunPod(ctx context.Context, p Pod) (id string, err error) {
	got, err := c.call(ctx, "RunPodSandbox", message{}.sub(1, p.config()))
	return got.str(1), err
}

// PodIPs are a pod's addresses, the first one first.
func (c *Client) PodIPs(ctx context.Context, id string) (out []netip.Addr, err error) {
	got, err := c.call(ctx, "PodSandboxStatus", message{}.str(1, id))
	if err != nil {
		return nil, err
	}
	status, err := got.sub(1)
	if err != nil {
		return nil, err
	}
	network, err := status.sub(5)
	if err != nil {
		return nil, err
	}
	texts := []string{network.str(1)}
	for _, b := range network.all(2) {
		more, err := parse(b)
		if err != nil {
			return nil, err
		}
		texts = append(texts, more.str(1))
	}
	for _, s := range texts {
		ip, err := netip.ParseAddr(s)
		if err != nil {
			return nil, fmt.Errorf("pod %s: %w", id, err)
		}
		out = append(out, ip)
	}
	return out, nil
}

// RemovePod stops a pod, which detaches it from its network, and removes it.
func (c *Client) RemovePod(ctx context.Context, id string) error {
	if _, err := c.call(ctx, "StopPodSandbox", message{}.str(1, id)); err != nil {
		return err
	}
	_, err := c.call(ctx, "RemovePodSandbox", message{}.str(1, id))
	return err
}

// RunContainer makes a container in a pod and starts it.
func (c *Client) RunContainer(ctx context.Context, p Pod, podID, name, image string, command ...string) (id string, err error) {
	config := message{}.sub(1, message{}.str(1, name)).sub(2, message{}.str(1, image)).list(3, command).str(11, name+".log")
	got, err := c.call(ctx, "CreateContainer", message{}.str(1, podID).sub(2, config).sub(3, p.config()))
	if err != nil {
		return "", err
	}
	id = got.str(1)
	_, err = c.call(ctx, "StartContainer", message{}.str(1, id))
	return id, err
}

// RemoveContainer kills a container and removes it.
func (c *Client) RemoveContainer(ctx context.Context, id string) error {
	if _, err := c.call(ctx, "StopContainer", message{}.str(1, id)); err != nil {
		return err
	}
	_, err := c.call(ctx, "RemoveContainer", message{}.str(1, id))
	return err
}

// Exec runs a command in a container, for at most the given time, and returns what it printed. An exit status other than
// zero is an error.
func (c *Client) Exec(ctx context.Context, container string, limit time.Duration, command ...string) (string, error) {
	got, err := c.call(ctx, "ExecSync", message{}.str(1, container).list(2, command).num(3, uint64(limit/time.Second)))
	if err != nil {
		return "", err
	}
	out := got.str(1) + got.str(2)
	if code := int32(got.num(3)); code != 0 {
		return out, fmt.Errorf("%q in container %s: exit status %d: %s", command, container, code, out)
	}
	return out, nil
}
