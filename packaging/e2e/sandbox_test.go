//go:build e2e

package e2e

// sandboxed are our services that run as root beside the daemon.
var sandboxed = []string{"containarium-keyguard.service", "containarium-keyguard-drill.service"}

// attempts are what the sandbox forbids, as far as a guest can show it: a container gets no
// /proc of its own for ProtectProc=. Each passes for root outside of it, so that a failure
// inside is the directive's doing.
var attempts = []struct{ directive, script string }{
	{"CapabilityBoundingSet=", "chown daemon /var/lib/containarium-keyguard/probe"},
	{"NoNewPrivileges=", "grep -q '^NoNewPrivs:.0' /proc/self/status"},
	{"ProtectSystem=", "touch /usr/probe && rm /usr/probe"},
	{"ProtectSystem= (/var)", "touch /var/lib/probe && rm /var/lib/probe"},
	{"ProtectHome=", "ls /root/probe"},
	{"PrivateTmp=", "ls /tmp/probe"},
	{"PrivateDevices=", "ls /dev/probe"},
	{"PrivateUsers=", "grep -q '^ *0 *0 *4294967295' /proc/self/uid_map"},
	{"ProtectControlGroups=", "mkdir /sys/fs/cgroup/probe && rmdir /sys/fs/cgroup/probe"},
	{"ProtectHostname=", "hostname probe && hostname keyguard-guest"},
	{"RestrictAddressFamilies=", "ip link show lo"}, // AF_NETLINK
	{"RestrictNamespaces=", "unshare --user true"},
	{"RestrictSUIDSGID=", "chmod u+s /var/lib/containarium-keyguard/probe"},
	{"MemoryDenyWriteExecute=", "perl -e 'exit(syscall(9, 0, 4096, 7, 0x22, -1, 0) == -1)'"},                  // mmap(2), writable and executable
	{"LockPersonality=", "perl -e 'exit(syscall(135, 8) == -1)'"},                                             // personality(2), PER_LINUX32
	{"RestrictRealtime=", `perl -e 'my $priority = pack("i", 1); exit(syscall(144, 0, 1, $priority) == -1)'`}, // sched_setscheduler(2), SCHED_FIFO
	{"SystemCallFilter=", "perl -e 'exit(syscall(141, 0, 0, 5) == -1)'"},                                      // setpriority(2), of @resources
	{"LimitCORE=", "test \"$(ulimit -H -c)\" != 0"},
	{"UMask=", "test \"$(umask)\" != 0077"},
}

// The units are as tight as systemd knows how to tell, and what a directive forbids
// fails inside them.
func sandbox(m machine) {
	m.install(deb)
	// What the attempts are made on.
	m.run(`touch /var/lib/containarium-keyguard/probe /root/probe /tmp/probe
			mknod /dev/probe c 1 3`)
	script, all := "#!/bin/sh\n", ""
	for _, a := range attempts {
		script += "if (" + a.script + ") >/dev/null 2>&1; then echo '" + a.directive + "'; fi\n"
		all += a.directive + "\n"
	}
	m.check(m.g.Write(m.ctx, "/usr/local/bin/attempts", script+"echo end\n", 0o755))
	m.want("/usr/local/bin/attempts", all+"end")
	for _, name := range sandboxed {
		out := m.run("systemd-analyze verify " + name + " 2>&1 || true")
		if out != "" {
			m.Errorf("systemd-analyze verify %s says\n%s", name, out)
		}
		m.run("systemd-analyze --no-pager security --offline=true --threshold=14 /usr/lib/systemd/system/" + name) // in tenths
		m.want("systemctl show -p MemorySwapMax --value "+name, "0")                                               // no cgroup of a guest has the controller
		// The unit as it is shipped, with another program.
		m.run(`sed -e '/^Exec/d; /^Type=/d; /^Restart/d; /^Watchdog/d; /^Before=/d' \
				-e 's|^\[Service\]|&\nType=oneshot\nExecStart=/usr/local/bin/attempts\nStandardOutput=truncate:/run/passed\nStandardError=null|' \
				/usr/lib/systemd/system/` + name + ` >/run/systemd/system/attempts.service
				systemctl daemon-reload
				systemctl start attempts`)
		if passed := m.run("cat /run/passed"); passed != "end" {
			m.Errorf("%s lets pass\n%s", name, passed)
		}
	}
}
