package cni_test

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"strings"

	"github.com/cniblocks/cniblocks/cni"
)

// A plugin that has nothing to do for most verbs.
type hello struct{}

func (hello) Add(_ context.Context, r *cni.Request) (*cni.Result, error) {
	var conf struct {
		Greeting string `json:"greeting"`
	}
	if err := r.Decode(&conf); err != nil {
		return nil, err
	}
	if conf.Greeting == "" {
		return nil, cni.Errorf(cni.ErrConfig, `netconf: key "greeting" is missing; want a word`)
	}
	return &cni.Result{
		Interfaces: []cni.Interface{{Name: r.IfName, Sandbox: r.NetNS}},
		IPs:        []cni.IP{{Address: netip.MustParsePrefix("10.1.2.3/24"), Interface: 0}},
	}, nil
}

func (hello) Del(context.Context, *cni.Request) error    { return nil }
func (hello) Check(context.Context, *cni.Request) error  { return nil }
func (hello) Status(context.Context, *cni.Request) error { return nil }
func (hello) GC(context.Context, *cni.Request) error     { return nil }

func ExampleRun() {
	env := map[string]string{"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "c1", "CNI_NETNS": "/run/netns/c1", "CNI_IFNAME": "eth0",
		"CNI_PATH": "/opt/cni/bin"}
	getenv := func(key string) string { return env[key] }
	for _, conf := range []string{
		`{"cniVersion": "1.0.0", "name": "demo", "type": "hello", "greeting": "hi"}`,
		`{"cniVersion": "0.4.0", "name": "demo", "type": "hello", "greting": "hi"}`,
	} {
		status := cni.Run(context.Background(), hello{}, nil, getenv, strings.NewReader(conf), os.Stdout, os.Stdout)
		fmt.Println()
		fmt.Println(status)
	}
	// Output:
	// {"cniVersion":"1.0.0","interfaces":[{"name":"eth0","sandbox":"/run/netns/c1"}],"ips":[{"interface":0,"address":"10.1.2.3/24"}]}
	// 0
	// warning: netconf: key "greting" is not known and ignored; did you mean "greeting"?
	// netconf: key "greeting" is missing; want a word
	// {"cniVersion":"0.4.0","code":7,"msg":"netconf: key \"greeting\" is missing; want a word"}
	//
	// 1
}

func ExampleRequest_Delegate() {
	r := &cni.Request{Path: []string{"/nowhere"}, Delegates: cni.Delegates{"hello": hello{}}}
	_, err := r.Delegate("hello")
	fmt.Println(err)
	_, err = r.Delegate("hallo")
	fmt.Println(err)
	// Output:
	// <nil>
	// delegate "hallo" is neither linked in nor in CNI_PATH (/nowhere): install it there or correct the key "type"
}

func ExampleResult_Encode() {
	r := &cni.Result{IPs: []cni.IP{{Address: netip.MustParsePrefix("10.1.2.3/24"), Gateway: netip.MustParseAddr("10.1.2.1"), Interface: cni.NoInterface}}}
	for _, version := range []string{"0.2.0", "1.1.0"} {
		b, err := r.Encode(version)
		fmt.Println(string(b), err)
	}
	// Output:
	// {"cniVersion":"0.2.0","ip4":{"ip":"10.1.2.3/24","gateway":"10.1.2.1"},"dns":{}} <nil>
	// {"cniVersion":"1.1.0","ips":[{"address":"10.1.2.3/24","gateway":"10.1.2.1"}]} <nil>
}
