// Command linked links every package that keyguard links, and exits: what a start of
// keyguard costs before its first line runs. The benchmark compares with it.
package main

import (
	_ "github.com/spf13/cobra"
	_ "golang.org/x/term"

	_ "github.com/footprintai/containarium-keyguard/agent"
	_ "github.com/footprintai/containarium-keyguard/agent/config"
	_ "github.com/footprintai/containarium-keyguard/agent/escrow/kinds"
	_ "github.com/footprintai/containarium-keyguard/agent/unit"
	_ "github.com/footprintai/containarium-keyguard/hooks"
)

func main() {}
