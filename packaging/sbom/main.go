// Sbom prints, as CycloneDX, what a program that Go built is made of: every module with
// its version and checksum, and Go's own library. It reads what the linker wrote into the
// program, and so tells of what is shipped, not of what a checkout might become.
//
//	go run ./packaging/sbom dist/build/amd64/keyguard 1.2.3
package main

import (
	"debug/buildinfo"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"strings"

	cyclonedx "github.com/CycloneDX/cyclonedx-go"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: sbom PROGRAM VERSION")
		os.Exit(2)
	}
	if err := write(os.Stdout, os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "sbom:", err)
		os.Exit(1)
	}
}

func write(w io.Writer, program, version string) error {
	info, err := buildinfo.ReadFile(program)
	if err != nil {
		return err
	}
	application := library(info.Main.Path, "v"+version)
	application.Type = cyclonedx.ComponentTypeApplication
	application.Licenses = &cyclonedx.Licenses{{License: &cyclonedx.License{ID: "Apache-2.0"}}}
	components := []cyclonedx.Component{library("std", info.GoVersion)}
	for _, m := range info.Deps {
		sum := m.Sum
		c := library(m.Path, m.Version)
		if m.Replace != nil {
			sum = m.Replace.Sum
			c = library(m.Replace.Path, m.Replace.Version)
		}
		// A sum of go.sum is the SHA-256 of a list of the files' SHA-256, golang.org/x/mod/sumdb/dirhash.
		h1, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(sum, "h1:"))
		if err != nil || len(h1) != 32 {
			return fmt.Errorf("module %s has the checksum %q", m.Path, sum)
		}
		c.Hashes = &[]cyclonedx.Hash{{Algorithm: cyclonedx.HashAlgoSHA256, Value: hex.EncodeToString(h1)}}
		components = append(components, c)
	}
	var refs []string
	for _, c := range components {
		refs = append(refs, c.BOMRef)
	}
	// No serial number and no time: the same program has the same list.
	bom := cyclonedx.NewBOM()
	bom.SerialNumber = ""
	bom.Metadata = &cyclonedx.Metadata{Component: &application}
	bom.Components = &components
	bom.Dependencies = &[]cyclonedx.Dependency{{Ref: application.BOMRef, Dependencies: &refs}}
	return cyclonedx.NewBOMEncoder(w, cyclonedx.BOMFileFormatJSON).SetPretty(true).Encode(bom)
}

// library is a module, by its package URL.
func library(path, version string) cyclonedx.Component {
	url := "pkg:golang/" + path + "@" + version
	return cyclonedx.Component{BOMRef: url, Type: cyclonedx.ComponentTypeLibrary, Name: path, Version: version, PackageURL: url}
}
