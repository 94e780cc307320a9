//go:build linux

package dhcp

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// Conf is what stands under "ipam" of the netconf.
type Conf struct {
	Type     string `json:"type"`
	Socket   string `json:"daemonSocketPath"` // of the daemon; default [Socket]
	Priority int    `json:"priority"`         // metric of the routes; 0 is the kernel's choice
	// Provide are options that the client states.
	Provide []struct {
		Option string `json:"option"`
		Value  string `json:"value"`
		Arg    string `json:"fromArg"` // the key of CNI_ARGS that has the value
	} `json:"provide"`
	// Request are options that the client asks for, beside router and subnet mask.
	Request []struct {
		SkipDefault bool   `json:"skipDefault"` // do not ask for router and subnet mask
		Option      string `json:"option"`
	} `json:"request"`
}

var optionNames = map[string]dhcpv4.OptionCode{
	"dhcp-client-identifier":  dhcpv4.OptionClientIdentifier,
	"subnet-mask":             dhcpv4.OptionSubnetMask,
	"routers":                 dhcpv4.OptionRouter,
	"host-name":               dhcpv4.OptionHostName,
	"user-class":              dhcpv4.OptionUserClassInformation,
	"vendor-class-identifier": dhcpv4.OptionClassIdentifier,
}

func optionCode(key, name string) (dhcpv4.OptionCode, error) {
	if code, ok := optionNames[name]; ok {
		return code, nil
	}
	n, err := strconv.ParseUint(name, 10, 8)
	if err != nil || n == 0 || n == 255 {
		return nil, fmt.Errorf("key %q is %q: Can not parse option; want a number from 1 to 254, or host-name, vendor-class-identifier, user-class, dhcp-client-identifier, subnet-mask, routers", key, name)
	}
	return dhcpv4.GenericOptionCode(n), nil
}

// options are those that c and CNI_ARGS state. Routes are always asked for: a server need not send what nobody wants.
func (c Conf) options(cniArgs string) (list []dhcpv4.Option, err error) {
	args := map[string]string{}
	for _, pair := range strings.Split(cniArgs, ";") {
		if key, value, ok := strings.Cut(pair, "="); ok {
			args[key] = value
		}
	}
	for i, p := range c.Provide {
		key := fmt.Sprintf("ipam.provide[%d]", i)
		code, err := optionCode(key+".option", p.Option)
		if err != nil {
			return nil, err
		}
		value := p.Value
		if arg, ok := args[p.Arg]; ok && p.Arg != "" {
			key, value = "ipam.provide["+strconv.Itoa(i)+"].fromArg", arg
		}
		if len(value) > 255 {
			return nil, fmt.Errorf("key %q: value too long for option %q: %d bytes; want at most 255", key, p.Option, len(value))
		}
		if value != "" {
			list = append(list, dhcpv4.Option{Code: code, Value: dhcpv4.String(value)})
		}
	}
	var ask dhcpv4.OptionCodeList
	defaults := true
	for i, r := range c.Request {
		defaults = defaults && !r.SkipDefault
		if r.Option == "" {
			continue
		}
		code, err := optionCode(fmt.Sprintf("ipam.request[%d].option", i), r.Option)
		if err != nil {
			return nil, err
		}
		ask.Add(code)
	}
	if defaults {
		for _, code := range []dhcpv4.OptionCode{dhcpv4.OptionSubnetMask, dhcpv4.OptionClasslessStaticRoute, dhcpv4.OptionRouter, dhcpv4.OptionStaticRoutingTable} {
			ask.Add(code)
		}
	}
	if len(ask) > 0 {
		list = append(list, dhcpv4.Option{Code: dhcpv4.OptionParameterRequestList, Value: ask})
	}
	return list, nil
}

// clientID is the reference's, so that a server takes a client for the same whichever of the two daemons asks.
func clientID(containerID, network, ifName string) string {
	id := containerID + "/" + network + "/" + ifName
	return id[:min(len(id), 254)] // one byte tells the length, of which the type takes one
}
