package flannel

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/cniblocks/cniblocks/peer"
)

// Ports and tunnel ids of flannel, where its configuration states none. The VXLAN port is the Linux kernel's.
const (
	DefaultVNI             = 1
	DefaultPort            = 8472
	DefaultListenPort      = 51820
	DefaultListenPortIPv6  = 51821
	defaultTypeOfNoBackend = "udp"
)

// Backend is the "Backend" of a [Config] as it is written there, without any defaults; a key that is not there is zero.
// Keys that flannel has for other systems and clouds are not kept.
type Backend struct {
	Type string // "udp" if there is no Backend at all

	VNI           uint32 `json:",omitempty"`
	Port          uint16 `json:",omitempty"` // VXLAN, Geneve: UDP
	GBP           bool   `json:",omitempty"`
	Learning      bool   `json:",omitempty"`
	DirectRouting bool   `json:",omitempty"`
	MTU           int    `json:",omitempty"` // of the underlay; 0 is that of the link

	ListenPort                  uint16 `json:",omitempty"` // WireGuard: UDP
	ListenPortV6                uint16 `json:",omitempty"` // of the device for IPv6
	PSK                         Secret `json:",omitempty"`
	PersistentKeepaliveInterval uint16 `json:",omitempty"` // seconds
	Mode                        string `json:",omitempty"`
}

// Secret is a text that is printed as "(secret)".
type Secret string

// String hides the secret.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return "(secret)"
}

// GoString hides the secret.
func (s Secret) GoString() string { return fmt.Sprintf("%q", s.String()) }

// MarshalText hides the secret.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

type backend struct {
	Type, Mode, PSK                     json.RawMessage
	VNI, Port, ListenPort, ListenPortV6 json.RawMessage
	GBP, Learning, DirectRouting        json.RawMessage
	MTU, PersistentKeepaliveInterval    json.RawMessage
}

func (r *reader) backend(v []byte) Backend {
	if null(v) {
		return Backend{Type: defaultTypeOfNoBackend}
	}
	var in backend
	if err := json.Unmarshal(v, &in); err != nil {
		r.bad(`Backend is not an object: write { "Type": "vxlan" }`)
		return Backend{}
	}
	b := Backend{Type: r.text("Backend.Type", in.Type)}
	if known(b.Type) == "" {
		return b // keys mean something else there
	}
	b.VNI = uint32(r.number("Backend.VNI", in.VNI, peer.MaxVNI, 0))
	b.Port = uint16(r.number("Backend.Port", in.Port, math.MaxUint16, 0))
	if b.Type == VXLAN && string(in.VNI) == "0" {
		r.bad("Backend.VNI 0 is no tunnel id of its own: state a number from 1 to %d, or leave it out", peer.MaxVNI)
	}
	b.GBP = r.flag("Backend.GBP", in.GBP, false)
	b.Learning = r.flag("Backend.Learning", in.Learning, false)
	b.DirectRouting = r.flag("Backend.DirectRouting", in.DirectRouting, false)
	b.MTU = int(r.number("Backend.MTU", in.MTU, math.MaxUint16, 0))
	b.ListenPort = uint16(r.number("Backend.ListenPort", in.ListenPort, math.MaxUint16, 0))
	b.ListenPortV6 = uint16(r.number("Backend.ListenPortV6", in.ListenPortV6, math.MaxUint16, 0))
	b.PersistentKeepaliveInterval = uint16(r.number("Backend.PersistentKeepaliveInterval", in.PersistentKeepaliveInterval, math.MaxUint16, 0))
	b.Mode = r.text("Backend.Mode", in.Mode)
	if !null(in.PSK) {
		var s string
		if json.Unmarshal(in.PSK, &s) != nil {
			r.bad("Backend.PSK is not a string: write it in quotes")
		}
		b.PSK = Secret(s)
	}
	return b
}

// Modes of WireGuard: a device for each family of the underlay, or one device over the family that is named or that suits.
const (
	ModeSeparate = "separate"
	ModeAuto     = "auto"
	ModeIPv4     = "ipv4"
	ModeIPv6     = "ipv6"
)

// Encapsulation is what a [Backend] comes to with flannel's defaults. Fields that mean nothing for the Type are zero.
type Encapsulation struct {
	Type string // [VXLAN], [HostGW], [IPIP], [WireGuard], [GRE] or [Geneve]

	VNI           uint32 // VXLAN: 1 if not stated; Geneve: as stated
	Port          uint16 // VXLAN: 8472 if not stated; WireGuard: 51820; Geneve: as stated
	PortV6        uint16 // of the WireGuard device for the IPv6 underlay: 51821; 0 with one device for both
	GBP           bool   // VXLAN
	Learning      bool   // VXLAN
	DirectRouting bool   // VXLAN, IPIP
	MTU           int    // of the underlay; 0 is that of the link
	PSK           Secret // WireGuard: base64, 32 bytes; "" is none
	Keepalive     time.Duration
	Mode          string // WireGuard: [ModeSeparate] if not stated
}

// Encapsulation is what the nodes use. A backend that is not known, or that cannot be had in this way, is an error.
func (c Config) Encapsulation() (Encapsulation, error) {
	e, err := c.Backend.encapsulation()
	if err != nil {
		return Encapsulation{}, fmt.Errorf("flannel configuration: %w", err)
	}
	return e, nil
}

func (b Backend) encapsulation() (Encapsulation, error) {
	e := Encapsulation{Type: b.Type, MTU: b.MTU}
	switch b.Type {
	case VXLAN:
		e.VNI, e.Port = b.VNI, b.Port
		if e.VNI == 0 {
			e.VNI = DefaultVNI
		}
		if e.Port == 0 {
			e.Port = DefaultPort
		}
		e.GBP, e.Learning, e.DirectRouting = b.GBP, b.Learning, b.DirectRouting
	case IPIP:
		e.DirectRouting = b.DirectRouting
	case WireGuard:
		return b.wireguard(e)
	case Geneve:
		e.VNI, e.Port = b.VNI, b.Port
	case HostGW, GRE:
	default:
		return e, fmt.Errorf("Backend.Type %s is not one that is known here: state one of %s", quote(b.Type), knownTypes)
	}
	return e, nil
}

func (b Backend) wireguard(e Encapsulation) (Encapsulation, error) {
	e.Port, e.PortV6, e.Mode = b.ListenPort, b.ListenPortV6, b.Mode
	if e.Port == 0 {
		e.Port = DefaultListenPort
	}
	if e.PortV6 == 0 {
		e.PortV6 = DefaultListenPortIPv6
	}
	switch e.Mode {
	case "":
		e.Mode = ModeSeparate
	case ModeSeparate:
	case ModeAuto, ModeIPv4, ModeIPv6:
		e.PortV6 = 0
	default:
		return e, fmt.Errorf("Backend.Mode %s is not known: state separate, auto, ipv4 or ipv6", quote(e.Mode))
	}
	if k, err := base64.StdEncoding.DecodeString(string(b.PSK)); b.PSK != "" && (err != nil || len(k) != 32) {
		return e, errors.New(`Backend.PSK is not a preshared key: write 32 bytes in base64, 44 characters, as "wg genpsk" prints them`)
	}
	e.PSK = b.PSK
	e.Keepalive = time.Duration(b.PersistentKeepaliveInterval) * time.Second
	return e, nil
}
