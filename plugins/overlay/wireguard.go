package overlay

import "github.com/cniblocks/cniblocks/overlay"

func wireguard(c *conf) overlay.Encap { return overlay.Direct{} }
