// Logreader reads a live transparency log over HTTP as anyone may, with the Go project's own log client
// (golang.org/x/mod/sumdb), and proves what it says:
//
//	logreader URL VKEY [OLD-SIZE OLD-ROOT]
//
// The checkpoint is signed by VKEY; every tile hangs together under its root; every entry that a bundle tells
// is the one in the tree, by an inclusion proof of its own; and the tree of OLD-SIZE with OLD-ROOT (base64) is
// a prefix of it, by a consistency proof. It prints size and root on one line, or says what is wrong.
package main

import (
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

const height = 8

type reader struct {
	url    string
	client http.Client
}

func (r *reader) get(path, kind, caching string) ([]byte, error) {
	response, err := r.client.Get(r.url + "/" + path)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", path, response.Status)
	}
	if got := response.Header.Get("Content-Type"); got != kind {
		return nil, fmt.Errorf("%s: content type %q", path, got)
	}
	if got := response.Header.Get("Cache-Control"); !strings.Contains(got, caching) {
		return nil, fmt.Errorf("%s: cache control %q", path, got)
	}
	return body, nil
}

func (r *reader) Height() int { return height }

func (r *reader) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	var all [][]byte
	for _, tile := range tiles {
		// The Go checksum database names the tile height; tlog-tiles has one height and leaves it out.
		path := strings.Replace(tile.Path(), fmt.Sprintf("tile/%d/", height), "tile/", 1)
		data, err := r.get(path, "application/octet-stream", "immutable")
		if err != nil {
			return nil, err
		}
		all = append(all, data)
	}
	return all, nil
}

func (r *reader) SaveTiles([]tlog.Tile, [][]byte) {}

// entries reads the bundle with the number n of a tree of the given size.
func (r *reader) entries(n, size int64) ([][]byte, error) {
	width := min(size-n*256, 256)
	path := tlog.Tile{H: height, L: 0, N: n, W: int(width)}.Path()
	path = strings.Replace(path, fmt.Sprintf("tile/%d/0/", height), "tile/entries/", 1)
	bundle, err := r.get(path, "application/octet-stream", "immutable")
	if err != nil {
		return nil, err
	}
	var entries [][]byte
	for len(bundle) > 0 {
		if len(bundle) < 2 || len(bundle) < 2+int(binary.BigEndian.Uint16(bundle)) {
			return nil, fmt.Errorf("%s is cut short", path)
		}
		length := 2 + int(binary.BigEndian.Uint16(bundle))
		entries, bundle = append(entries, bundle[2:length]), bundle[length:]
	}
	if int64(len(entries)) != width {
		return nil, fmt.Errorf("%s has %d entries, not %d", path, len(entries), width)
	}
	return entries, nil
}

func run(arguments []string) error {
	if len(arguments) != 2 && len(arguments) != 4 {
		return fmt.Errorf("usage: logreader URL VKEY [OLD-SIZE OLD-ROOT]")
	}
	r := &reader{url: arguments[0], client: http.Client{Timeout: 10 * time.Second}}
	verifier, err := note.NewVerifier(arguments[1])
	if err != nil {
		return err
	}
	signed, err := r.get("checkpoint", "text/plain; charset=utf-8", "max-age=2")
	if err != nil {
		return err
	}
	opened, err := note.Open(signed, note.VerifierList(verifier))
	if err != nil {
		return err
	}
	lines := strings.Split(opened.Text, "\n")
	if len(lines) < 4 || lines[0] != verifier.Name() {
		return fmt.Errorf("not a checkpoint of %s", verifier.Name())
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil {
		return err
	}
	root, err := tlog.ParseHash(lines[2])
	if err != nil {
		return err
	}
	hashes := tlog.TileHashReader(tlog.Tree{N: size, Hash: root}, r)
	for n := int64(0); n*256 < size; n++ {
		entries, err := r.entries(n, size)
		if err != nil {
			return err
		}
		for i, entry := range entries {
			index := n*256 + int64(i)
			// A sample in the middle of bundles, and every entry at an edge, where mistakes are made.
			if i > 1 && i < len(entries)-2 && i%16 != 0 {
				continue
			}
			proof, err := tlog.ProveRecord(size, index, hashes)
			if err != nil {
				return err
			}
			if err := tlog.CheckRecord(proof, size, root, index, tlog.RecordHash(entry)); err != nil {
				return fmt.Errorf("entry %d: %w", index, err)
			}
		}
	}
	if len(arguments) == 4 {
		oldSize, err := strconv.ParseInt(arguments[2], 10, 64)
		if err != nil {
			return err
		}
		oldRoot, err := tlog.ParseHash(arguments[3])
		if err != nil {
			return err
		}
		proof, err := tlog.ProveTree(size, oldSize, hashes)
		if err != nil {
			return err
		}
		if err := tlog.CheckTree(proof, size, root, oldSize, oldRoot); err != nil {
			return fmt.Errorf("the tree of %d is no prefix of that of %d: %w", oldSize, size, err)
		}
	}
	fmt.Println(size, root)
	return nil
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
