// Command webserver serves a directory, as the static web servers do that package
// repositories lie on: `webserver 127.0.0.1:8088 DIR`.
package main

import (
	"fmt"
	"net/http"
	"os"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: webserver ADDRESS DIR")
		os.Exit(2)
	}
	fmt.Fprintln(os.Stderr, http.ListenAndServe(os.Args[1], http.FileServer(http.Dir(os.Args[2])))) //nolint:gosec // of a test, on loopback
	os.Exit(1)
}
