//go:build linux

package kubetest

import "path/filepath"

// StartControllers starts the controller manager, which gives every node ranges of clusterCIDR, and the scheduler. They
// end with the API.
func (a *API) StartControllers(clusterCIDR string) error {
	if _, err := Binaries(ControllerManager, Scheduler); err != nil {
		return err
	}
	config, err := a.Kubeconfig("")
	if err != nil {
		return err
	}
	for name, args := range map[string][]string{
		ControllerManager: {"--allocate-node-cidrs", "--cluster-cidr=" + clusterCIDR, "--service-cluster-ip-range=" + Services,
			"--service-account-private-key-file=" + a.KeyFile(), "--root-ca-file=" + a.CertFile(), "--cert-dir=" + a.path("certs"),
			"--use-service-account-credentials=false", "--profiling=false"},
		Scheduler: {"--cert-dir=" + a.path("certs"), "--profiling=false"},
	} {
		argv := append([]string{filepath.Join(a.Bin, name), "--kubeconfig=" + config, "--leader-elect=false"}, args...)
		p, err := start(a.NS, a.path(name+".log"), argv...)
		if err != nil {
			return err
		}
		a.others = append(a.others, p)
	}
	return nil
}
