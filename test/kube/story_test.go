//go:build linux

package kube_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"

	"github.com/cniblocks/cniblocks/internal/test/nstest"
	"github.com/cniblocks/cniblocks/internal/test/ping"
	"github.com/cniblocks/cniblocks/netns"
)

// story is one cluster's life. Its chapters come one after the other.
type story struct {
	*cluster
	n1, n2, n3 *machine
}

const conflist = "/etc/cni/net.d/10-cniblocks.conflist"

func (s *story) nodesAreNotReadyWithoutTheAgent() {
	for _, m := range []*machine{s.n1, s.n2} {
		s.eventually(m.name+": is not ready, for want of a network", func() bool {
			out, err := s.Kubectl("", "get", "node", m.name, "-o", `jsonpath={.status.conditions[?(@.type=="Ready")].message}`)
			return err == nil && strings.Contains(out, "cni plugin not initialized")
		})
		require.Empty(s.t, m.read(conflist))
	}
}

func (s *story) theManifestMakesThemReady() {
	s.kubectl("apply", "-f", manifests+"/cniblocks.yaml")
	for _, m := range []*machine{s.n1, s.n2} {
		s.ready(m)
	}
	again := s.kubectl("apply", "-k", manifests)
	for line := range strings.Lines(again) {
		require.Contains(s.t, line, "unchanged", "the kustomize base is the same")
	}
	s.eventually("the DaemonSet is ready", func() bool {
		return s.kubectl("-n", "cniblocks", "get", "daemonset", "cniblocks", "-o", "jsonpath={.status.numberReady}") == "2"
	})
}

// ready waits until a node takes part in the network.
func (s *story) ready(m *machine) {
	s.eventually(m.name+": is ready", func() bool {
		status, _ := s.condition(m.name, "Ready")
		return status == "True"
	})
	s.eventually(m.name+": has said how it is reached", func() bool { // which is not what the runtime waits for
		status, reason := s.condition(m.name, "NetworkUnavailable")
		return status == "False" && reason == "FlannelIsUp"
	})
	require.NotEmpty(s.t, m.read(conflist))
	require.Contains(s.t, m.read("/run/flannel/subnet.env"), "FLANNEL_SUBNET="+strings.Replace(s.podCIDR(m), ".0/24", ".1/24", 1))
	names, err := m.Run(nil, "sh", "-c", "cd /opt/cni/bin && stat -c '%i %n' bridge host-local overlay loopback | cut -d' ' -f1 | sort -u")
	require.NoError(s.t, err)
	require.Len(s.t, strings.Fields(names), 1, "links to one file")
	annotations := s.kubectl("get", "node", m.name, "-o", "jsonpath={.metadata.annotations}")
	for _, words := range []string{`"flannel.alpha.coreos.com/public-ip":"` + m.ip.String() + `"`, `"flannel.alpha.coreos.com/backend-type":"vxlan"`,
		`"flannel.alpha.coreos.com/kube-subnet-manager":"true"`, "VtepMAC"} {
		require.Contains(s.t, annotations, words)
	}
}

func (s *story) podCIDR(m *machine) string {
	return s.kubectl("get", "node", m.name, "-o", "jsonpath={.spec.podCIDR}")
}

func (s *story) theAgentHasTheRightsThatItNeedsAndNoMore() {
	for right, want := range map[string]string{
		"get nodes": "yes", "list nodes": "yes", "watch nodes": "yes", "patch nodes": "yes", "patch nodes --subresource=status": "yes",
		"update nodes": "no", "delete nodes": "no", "create nodes": "no", "update nodes --subresource=status": "no", "get nodes --subresource=proxy": "no",
		"get pods": "no", "create pods": "no", "list secrets": "no", "get configmaps": "no", "get endpoints": "no", "create serviceaccounts --subresource=token": "no",
	} {
		args := append([]string{"auth", "can-i", "--as=system:serviceaccount:cniblocks:cniblocks", "-n", "cniblocks"}, strings.Fields(right)...)
		out, _ := s.Kubectl("", args...) // fails where the answer is no
		require.Equal(s.t, want, strings.TrimSpace(out), right)
	}
	for _, m := range []*machine{s.n1, s.n2} {
		pid := m.agent()
		status := m.read("/proc/" + pid + "/status")
		require.Contains(s.t, status, "CapEff:\t0000000000003000\n", "NET_ADMIN and NET_RAW")
		for line := range strings.Lines(status) {
			if strings.HasPrefix(line, "VmRSS") || strings.HasPrefix(line, "RssAnon") {
				s.t.Logf("%s: agent: %s", m.name, strings.Join(strings.Fields(line), " "))
			}
		}
	}
}

// agent is the ID that the agent's process has on its machine, empty if it does not run.
func (m *machine) agent() string {
	out, err := m.Run(nil, "sh", "-c", `for p in /proc/[0-9]*; do tr '\0' ' ' < $p/cmdline 2>/dev/null | grep -q '^/cniblocks agent' && echo ${p#/proc/}; done; true`)
	require.NoError(m.c.t, err)
	return strings.TrimSpace(out)
}

const pod = `
apiVersion: v1
kind: Pod
metadata: {name: %[1]s, labels: {app: %[1]s}}
spec:
  nodeSelector: {kubernetes.io/hostname: %[2]s}
  terminationGracePeriodSeconds: 1
  containers:
  - {name: main, image: "` + busyboxImage + `", imagePullPolicy: Never, command: [/bin/httpd, -f, -h, /www], ports: [%[3]s]}
`

// run makes a pod and returns its address.
func (s *story) run(name string, m *machine, ports string) netip.Addr {
	s.t.Helper()
	s.apply(fmt.Sprintf(pod, name, m.name, ports), "apply", "-f", "-")
	s.kubectl("wait", "--for=condition=Ready", "pod/"+name, "--timeout="+endurance.String())
	ip := netip.MustParseAddr(s.kubectl("get", "pod", name, "-o", "jsonpath={.status.podIP}"))
	require.True(s.t, netip.MustParsePrefix(s.podCIDR(m)).Contains(ip), "%s in the range of %s", ip, m.name)
	s.t.Logf("%6.1f s: pod %s on %s is %s", time.Since(s.begin).Seconds(), name, m.name, ip)
	return ip
}

func (s *story) address(name string) netip.Addr {
	return netip.MustParseAddr(s.kubectl("get", "pod", name, "-o", "jsonpath={.status.podIP}"))
}

func (s *story) podsOfDifferentNodesTalk() {
	s.run("one", s.n1, "")
	two := s.run("two", s.n2, "{containerPort: 80, hostPort: 8080}")
	s.talk("one", "two")
	s.talk("two", "one")
	s.kubectl("exec", "one", "--", "ping", "-c", "1", "-W", "5", gateway)
	s.reach(s.n1.Net, two)
	s.reach(s.n2.Net, two)
}

// talk proves that one pod reaches another by ping and by TCP.
func (s *story) talk(from, to string) {
	s.t.Helper()
	ip := s.address(to).String()
	s.kubectl("exec", from, "--", "ping", "-c", "1", "-W", "5", ip)
	page, err := s.pageOf(from, ip)
	require.NoError(s.t, err)
	require.Equal(s.t, "hello", page)
}

// pageOf is what an address serves to a pod. A static busybox has no wget that works: the resolver of its libc needs libraries.
func (s *story) pageOf(pod, ip string) (string, error) {
	out, err := s.Kubectl("", "exec", pod, "--", "sh", "-c", `printf 'GET / HTTP/1.0\r\n\r\n' | nc -w 5 `+ip+" 80")
	lines := strings.Split(strings.TrimSpace(out), "\n")
	return lines[len(lines)-1], err
}

func (s *story) reach(from *netns.NS, to netip.Addr) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 10*time.Second)
	defer cancel()
	require.NoError(s.t, nstest.Ping(ctx, from, to, ping.Options{}))
}

func (s *story) hostPortsAndServicesWork() {
	s.apply(`
apiVersion: v1
kind: Service
metadata: {name: two}
spec: {selector: {app: two}, clusterIP: 10.96.0.100, type: NodePort, ports: [{port: 80, nodePort: 30080}]}
`, "apply", "-f", "-")
	for from, ns := range map[string]*netns.NS{"outside": s.lan, "node n1": s.n1.Net, "node n2": s.n2.Net} {
		for what, at := range map[string]string{"the hostPort": "192.0.2.2:8080", "the nodePort on the other node": "192.0.2.1:30080"} {
			s.eventually(from+": reaches "+what, func() bool { return get(ns, at) == "hello\n" })
		}
	}
	for _, from := range []string{"one", "two"} {
		s.eventually("pod "+from+": reaches the service", func() bool {
			out, err := s.pageOf(from, "10.96.0.100")
			return err == nil && out == "hello"
		})
	}
}

// get is the page that an address serves to a namespace, empty if it does not.
func get(ns *netns.NS, at string) string {
	client := &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, addr string) (conn net.Conn, err error) {
			err = ns.Do(func() error {
				conn, err = new(net.Dialer).DialContext(ctx, network, addr)
				return err
			})
			return conn, err
		},
	}}
	resp, err := client.Get("http://" + at + "/")
	if err != nil {
		return ""
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return ""
	}
	return string(b)
}

// routes are the machine's routes to ranges of pods.
func (s *story) routes(m *machine) (out []string) {
	s.t.Helper()
	all, err := nstest.Netlink(s.t, m.Net).RouteList(nil, netlink.FAMILY_V4)
	require.NoError(s.t, err)
	for _, r := range all {
		if r.Dst != nil && strings.HasPrefix(r.Dst.String(), "10.244.") {
			out = append(out, r.String())
		}
	}
	slices.Sort(out)
	return out
}

func (s *story) hasRoute(m *machine, dst string) bool {
	return slices.ContainsFunc(s.routes(m), func(r string) bool { return strings.Contains(r, "Dst: "+dst+" ") })
}

func (s *story) aRestartedAPIServerCostsNoRouteAndNoPacket() {
	before, two := s.routes(s.n1), s.address("two")
	var sent, lost atomic.Int32
	ctx, cancel := context.WithCancel(s.t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ; ctx.Err() == nil; time.Sleep(50 * time.Millisecond) {
			one, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			if nstest.Ping(one, s.n1.Net, two, ping.Options{}) != nil {
				lost.Add(1)
			}
			cancel()
			sent.Add(1)
		}
	}()
	s.StopServer()
	time.Sleep(3 * time.Second)
	require.Equal(s.t, before, s.routes(s.n1))
	require.NoError(s.t, s.StartServer())
	require.NoError(s.t, s.WaitReady())
	s.eventually("the API server is back", func() bool {
		_, err := s.Kubectl("", "get", "nodes")
		return err == nil
	})
	cancel()
	<-done
	require.Equal(s.t, before, s.routes(s.n1))
	require.Zero(s.t, lost.Load(), "of %d packets", sent.Load())
	s.t.Logf("%d packets, none lost", sent.Load())
}

func (s *story) aNodeThatIsAddedTakesPart() {
	s.n3 = s.newMachine("n3", "192.0.2.3")
	s.ready(s.n3)
	s.run("three", s.n3, "")
	for _, m := range []*machine{s.n1, s.n2} {
		s.eventually(m.name+": has a route to n3", func() bool { return s.hasRoute(m, s.podCIDR(s.n3)) })
	}
	s.talk("one", "three")
	s.talk("three", "two")
}

func (s *story) aNodeThatVanishedWhileAnAgentWasDownIsForgottenAtItsStart() {
	dst := s.podCIDR(s.n3)
	s.n2.kubelet.stop()
	_, err := s.n2.Run(nil, "kill", "-9", s.n2.agent())
	require.NoError(s.t, err)
	s.eventually("n2: has no agent", func() bool { return s.n2.agent() == "" })
	require.True(s.t, s.hasRoute(s.n2, dst), "what an agent made stays without it")

	s.n3.kubelet.stop()
	s.kubectl("delete", "node", "n3")
	s.eventually("n1: has forgotten n3", func() bool { return !s.hasRoute(s.n1, dst) })
	require.True(s.t, s.hasRoute(s.n2, dst))

	s.n2.startKubelet()
	s.eventually("n2: has an agent again", func() bool { return s.n2.agent() != "" })
	s.eventually("n2: has forgotten n3", func() bool { return !s.hasRoute(s.n2, dst) })
	s.talk("one", "two")
}

func (s *story) anAgentDoesNotRunBesideAFlanneld() {
	_, err := s.n1.Run(nil, "cp", "/bin/sleep", "/run/flanneld")
	require.NoError(s.t, err)
	flanneld := s.n1.start("flanneld", "/run/flanneld", "3600")
	_, err = s.n1.Run(nil, "kill", "-9", s.n1.agent())
	require.NoError(s.t, err)
	s.eventually("n1: the agent says why it does not start", func() bool {
		logs, err := s.n1.Run(nil, "sh", "-c", "cat /var/log/pods/cniblocks_*/agent/*.log")
		return err == nil && strings.Contains(logs, "flanneld runs on this node")
	})
	s.talk("one", "two")
	flanneld.stop()
	s.eventually("n1: has an agent again", func() bool {
		out, err := s.Kubectl("", "-n", "cniblocks", "get", "daemonset", "cniblocks", "-o", "jsonpath={.status.numberReady}")
		return err == nil && out == "2" && s.n1.agent() != ""
	})
}

func (s *story) podsGoWithoutATrace() {
	s.kubectl("delete", "pod", "one", "two", "--wait=true")
	for _, m := range []*machine{s.n1, s.n2} {
		s.eventually(m.name+": has no pod's interface", func() bool {
			links, err := nstest.Netlink(s.t, m.Net).LinkList()
			require.NoError(s.t, err)
			return !slices.ContainsFunc(links, func(l netlink.Link) bool { return strings.HasPrefix(l.Attrs().Alias, "cniblocks/pods/") })
		})
		leases, err := m.Run(nil, "sh", "-c", "ls /var/lib/cni/networks/pods | grep '^10[.]' || true")
		require.NoError(s.t, err)
		require.Empty(s.t, leases)
	}
}
