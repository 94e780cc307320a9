package cni

import (
	"encoding/json"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"unicode"

	"github.com/cniblocks/cniblocks/internal/base/lazyjson"
)

// maxConfig bounds a netconf, prevResult included; the largest real ones have some kilobytes.
const maxConfig = 8 << 20

// NewRequest reads a request as a plugin receives it: getenv gives the CNI_ variables (specification, section 2,
// "Parameters"), in the configuration. Everything that a name or an ID could break is refused here, so that none becomes
// a path elsewhere.
func NewRequest(getenv func(string) string, in io.Reader) (*Request, error) {
	r := &Request{
		Verb: Verb(getenv("CNI_COMMAND")), ContainerID: getenv("CNI_CONTAINERID"), NetNS: getenv("CNI_NETNS"),
		IfName: getenv("CNI_IFNAME"), Args: getenv("CNI_ARGS"), Path: filepath.SplitList(getenv("CNI_PATH")),
		warnings: &[]string{},
	}
	override := getenv("CNI_NETNS_OVERRIDE")
	r.NodeNetNS = override == "1" || strings.EqualFold(override, "true")
	if err := r.checkEnvironment(); err != nil {
		return nil, err
	}
	config, err := io.ReadAll(io.LimitReader(in, maxConfig+1))
	if err != nil {
		return nil, Errorf(ErrIO, "read the configuration from standard input: %w", err)
	}
	if len(config) > maxConfig {
		return nil, Errorf(ErrDecode, "the configuration on standard input is longer than %d bytes", maxConfig)
	}
	r.Config = config
	if r.Verb == VERSION {
		return r, r.readVersion()
	}
	return r, r.readConfig()
}

func (r *Request) checkEnvironment() error {
	attach := r.Verb == ADD || r.Verb == DEL || r.Verb == CHECK
	switch r.Verb {
	case ADD, DEL, CHECK, STATUS, GC, VERSION:
	case "":
		return Errorf(ErrEnvironment, "CNI_COMMAND is not set; want one of ADD, DEL, CHECK, STATUS, GC, VERSION")
	default:
		return Errorf(ErrEnvironment, "CNI_COMMAND=%q; want one of ADD, DEL, CHECK, STATUS, GC, VERSION", r.Verb)
	}
	if r.Verb == VERSION {
		return nil
	}
	if len(r.Path) == 0 {
		return Errorf(ErrEnvironment, "CNI_PATH is not set; want the directories where plugins are, such as /opt/cni/bin")
	}
	if !attach {
		return nil
	}
	if !ValidName(r.ContainerID) {
		return Errorf(ErrEnvironment, "CNI_CONTAINERID=%q; want letters, digits, '_', '.', '-', the first a letter or digit, at most %d", clip(r.ContainerID), maxName)
	}
	if !ValidIfName(r.IfName) {
		return Errorf(ErrEnvironment, "CNI_IFNAME=%q; want at most 15 bytes without '/', ':', '%%' and white space", clip(r.IfName))
	}
	if r.Verb != DEL && reserved(r.IfName) {
		return Errorf(ErrEnvironment, "CNI_IFNAME=%s: the kernel keeps this name for the parameters of all interfaces; want another one", r.IfName)
	}
	if r.NetNS == "" && r.Verb != DEL {
		return Errorf(ErrEnvironment, "CNI_NETNS is not set; want the path of the container's network namespace")
	}
	if strings.IndexByte(r.NetNS, 0) >= 0 || len(r.NetNS) > 4095 {
		return Errorf(ErrEnvironment, "CNI_NETNS=%q: not a path", clip(r.NetNS))
	}
	return nil
}

// CheckArgs fails if CNI_ARGS is not pairs of key and value. It is for plugins that read some, see [Request.Arg]: to others
// it does not matter, nor does it to a verb other than ADD and CHECK, for what was added must go.
func (r *Request) CheckArgs() error {
	if r.Verb != ADD && r.Verb != CHECK {
		return nil
	}
	for pair := range strings.SplitSeq(r.Args, ";") {
		if pair != "" && !strings.Contains(pair, "=") {
			return Errorf(ErrEnvironment, "CNI_ARGS: %q is no KEY=VALUE; want pairs with ';' between them", clip(pair))
		}
	}
	return nil
}

// maxName bounds container IDs and network names: both become file names.
const maxName = 255

// ValidName reports whether s can be a container ID or a network name: letters, digits, '_', '.', '-', the first a letter
// or digit (specification, section 1 and 2), at most 255 bytes.
func ValidName(s string) bool {
	for i, c := range []byte(s) {
		alnum := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if !alnum && (i == 0 || c != '_' && c != '.' && c != '-') {
			return false
		}
	}
	return s != "" && len(s) <= maxName
}

// ValidIfName reports whether Linux takes s as the name of an interface as it is: it would make another name of one with
// '%'.
func ValidIfName(s string) bool {
	return s != "" && len(s) <= 15 && s != "." && s != ".." && !strings.ContainsFunc(s, unicode.IsSpace) &&
		!slices.ContainsFunc([]byte(s), func(c byte) bool { return c == '/' || c == ':' || c == '%' || c == 0 || c == 0xa0 })
}

// reserved reports whether the kernel makes no interface of that name: net/ipv4/conf has directories of it.
func reserved(ifName string) bool { return ifName == "all" || ifName == "default" }

func clip(s string) string {
	if len(s) > 64 {
		return s[:64] + "..."
	}
	return s
}

func (r *Request) readVersion() error {
	r.Version = Versions[0]
	if len(r.Config) == 0 {
		return nil
	}
	var c struct {
		Version string `json:"cniVersion"`
	}
	if err := lazyjson.Unmarshal(r.Config, &c); err != nil {
		return decodeError(err)
	}
	if c.Version != "" {
		r.Version = c.Version
	}
	return nil
}

// readConfig reads what every netconf has.
func (r *Request) readConfig() error {
	var c struct {
		Version string          `json:"cniVersion"`
		Name    string          `json:"name"`
		Type    string          `json:"type"`
		Prev    json.RawMessage `json:"prevResult"`
		Valid   []Attachment    `json:"cni.dev/valid-attachments"`
		Old     []Attachment    `json:"cni.dev/attachments"`
	}
	if _, err := decode(r.Config, &c); err != nil {
		return err
	}
	if c.Version == "" {
		c.Version = Versions[0]
	}
	r.Version, r.Network, r.Type, r.Valid = c.Version, c.Name, c.Type, append(c.Valid, c.Old...)
	if !slices.Contains(Versions, c.Version) {
		return Errorf(ErrVersion, "netconf: key \"cniVersion\" is %q; want one of %s", clip(c.Version), strings.Join(Versions, ", "))
	}
	if !ValidName(c.Name) {
		return Errorf(ErrConfig, "netconf: key \"name\" is %q; want letters, digits, '_', '.', '-', the first a letter or digit, at most %d", clip(c.Name), maxName)
	}
	since := map[Verb]string{CHECK: "0.4.0", STATUS: "1.1.0", GC: "1.1.0"}[r.Verb]
	if since != "" && !atLeast(c.Version, since) {
		return &Error{Code: ErrVersion, Msg: "config version does not allow " + string(r.Verb), // as the specification's library says it
			Details: fmt.Sprintf("netconf: key \"cniVersion\" is %q; %s needs %s", c.Version, r.Verb, since)}
	}
	if r.Verb == GC {
		if err := r.checkValid(); err != nil {
			return err
		}
	}
	r.Prev = nil
	if len(c.Prev) > 0 && string(c.Prev) != "null" {
		prev, err := parsePrev(c.Version, c.Prev)
		if err != nil && r.Verb != DEL { // a DEL gets on without
			return err
		}
		r.Prev = prev
	}
	return nil
}

// checkValid refuses a GC that does not say in full which attachments are valid: what it left out would be removed.
func (r *Request) checkValid() error {
	const key = "cni.dev/valid-attachments"
	var c struct {
		Valid json.RawMessage `json:"cni.dev/valid-attachments"`
		Old   json.RawMessage `json:"cni.dev/attachments"` // as libcni has it too
	}
	if _, err := decode(r.Config, &c); err != nil {
		return err
	}
	if c.Valid == nil && c.Old == nil {
		return Errorf(ErrConfig, "netconf: key %q is missing, and without it GC would remove every attachment; want the list of those that the runtime has, [] for none", key)
	}
	for _, a := range r.Valid {
		if !ValidName(a.ContainerID) || !ValidIfName(a.IfName) {
			return Errorf(ErrConfig, `netconf: key %q names container %q with interface %q, which cannot be; want "containerID" and "ifname" as the ADD had them`,
				key, clip(a.ContainerID), clip(a.IfName))
		}
	}
	return nil
}

func parsePrev(version string, b []byte) (*Result, error) {
	prev, err := parseOf(version, b)
	if err != nil {
		return nil, Errorf(CodeOf(err), "netconf: key \"prevResult\": %w", err)
	}
	return prev, nil
}
