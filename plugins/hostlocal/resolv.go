package hostlocal

import (
	"bufio"
	"io"
	"os"
	"strings"
	"syscall"

	"github.com/cniblocks/cniblocks/cni"
)

// maxResolvConf bounds the file; a real one has less than a kilobyte.
const maxResolvConf = 64 << 10

// resolvConf reads a file as resolv.conf(5) describes it.
func resolvConf(path string) (dns cni.DNS, err error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a FIFO does not keep us waiting
	if err != nil {
		return dns, cni.Errorf(cni.ErrConfig, `netconf: key "ipam.resolvConf": %w`, err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return dns, cni.Errorf(cni.ErrConfig, `netconf: key "ipam.resolvConf": %w`, err)
	}
	if !st.Mode().IsRegular() {
		return dns, cni.Errorf(cni.ErrConfig, `netconf: key "ipam.resolvConf": %s is not a regular file`, path)
	}
	return parseResolvConf(io.LimitReader(f, maxResolvConf))
}

func parseResolvConf(in io.Reader) (dns cni.DNS, err error) {
	s := bufio.NewScanner(in)
	s.Buffer(nil, maxResolvConf+1)
	for s.Scan() {
		line := strings.TrimSpace(s.Text())
		fields := strings.Fields(line)
		if len(fields) < 2 || line[0] == '#' || line[0] == ';' {
			continue
		}
		switch fields[0] {
		case "nameserver":
			dns.Nameservers = append(dns.Nameservers, fields[1])
		case "domain":
			dns.Domain = fields[1]
		case "search":
			dns.Search = append(dns.Search, fields[1:]...)
		case "options":
			dns.Options = append(dns.Options, fields[1:]...)
		}
	}
	return dns, s.Err()
}
