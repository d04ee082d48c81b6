// Command generate writes log.json: golden vectors for the log's tree, proofs, tiles and notes, computed by
// golang.org/x/mod/sumdb, which shares no line with ours. Each must_reject vector was put to the same library
// before it was written, and the library refused it too, or (where said) has no such check.
//
//	cd tests/vectors/generate && go run . > ../log.json
//
// Keys and leaves are fixed, so the output is the same on every run.
package main

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

const total = 70000

type inclusion struct {
	Why   string   `json:"why,omitempty"`
	Index int64    `json:"index"`
	Size  int64    `json:"size"`
	Leaf  string   `json:"leaf"`
	Root  string   `json:"root"`
	Proof []string `json:"proof"`
}

type consistency struct {
	Why     string   `json:"why,omitempty"`
	Old     int64    `json:"old"`
	New     int64    `json:"new"`
	OldRoot string   `json:"old_root"`
	NewRoot string   `json:"new_root"`
	Proof   []string `json:"proof"`
}

type signed struct {
	Why    string `json:"why,omitempty"`
	Vkey   string `json:"vkey"`
	Note   string `json:"note"`
	Origin string `json:"origin,omitempty"`
	Size   int64  `json:"size,omitempty"`
	Root   string `json:"root,omitempty"`
}

type tile struct {
	Level  int    `json:"level"`
	Number int64  `json:"number"`
	Width  int    `json:"width"`
	Path   string `json:"path"`
	SHA256 string `json:"sha256"`
}

type vectors struct {
	Leaves string           `json:"leaves"`
	Roots  map[int64]string `json:"roots"`
	Incl   []inclusion      `json:"inclusion"`
	Cons   []consistency    `json:"consistency"`
	Tiles  []tile           `json:"tiles"`
	Notes  []signed         `json:"notes"`
	Reject struct {
		Incl  []inclusion   `json:"inclusion"`
		Cons  []consistency `json:"consistency"`
		Notes []signed      `json:"notes"`
	} `json:"must_reject"`
}

type hashes []tlog.Hash

func (h hashes) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	found := make([]tlog.Hash, len(indexes))
	for i, index := range indexes {
		found[i] = h[index]
	}
	return found, nil
}

func must[T any](value T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return value
}

func text[H ~[]tlog.Hash](proof H) []string {
	lines := []string{}
	for _, h := range proof {
		lines = append(lines, h.String())
	}
	return lines
}

func leafData(i int64) []byte {
	data := sha256.Sum256([]byte(fmt.Sprintf("leaf %d", i)))
	return data[:]
}

func key(name, seed string) (note.Signer, string) {
	raw := sha256.Sum256([]byte(seed))
	private := ed25519.NewKeyFromSeed(raw[:])
	vkey := must(note.NewEd25519VerifierKey(name, private.Public().(ed25519.PublicKey)))
	hash := strings.Split(vkey, "+")[1]
	skey := "PRIVATE+KEY+" + name + "+" + hash + "+" + base64.StdEncoding.EncodeToString(append([]byte{1}, raw[:]...))
	return must(note.NewSigner(skey)), vkey
}

func checkpoint(origin string, size int64, root tlog.Hash, signers ...note.Signer) string {
	body := fmt.Sprintf("%s\n%d\n%s\n", origin, size, root)
	return string(must(note.Sign(&note.Note{Text: body}, signers...)))
}

func main() {
	var out vectors
	out.Leaves = "the data of leaf i is SHA-256 of the ASCII text `leaf i`; hashes are RFC 6962, in base64"
	out.Roots = map[int64]string{}

	var store hashes
	for i := int64(0); i < total; i++ {
		store = append(store, must(tlog.StoredHashes(i, leafData(i), store))...)
	}
	root := func(size int64) tlog.Hash { return must(tlog.TreeHash(size, store)) }

	sizes := []int64{1, 2, 3, 4, 5, 6, 7, 8, 9, 255, 256, 257, 511, 512, 513, 1000, 65535, 65536, 65537, total}
	for _, size := range sizes {
		out.Roots[size] = root(size).String()
		for _, index := range []int64{0, 1, 2, 3, 4, 5, 6, 7, 8, 255, 256, 511, 65535, 65536, size/2 + 1, size - 1} {
			if index >= size || (size > 9 && index < 8 && index > 1) {
				continue
			}
			proof := must(tlog.ProveRecord(size, index, store))
			leaf := tlog.RecordHash(leafData(index))
			if err := tlog.CheckRecord(proof, size, root(size), index, leaf); err != nil {
				log.Fatal(err)
			}
			out.Incl = append(out.Incl, inclusion{"", index, size, leaf.String(), root(size).String(), text(proof)})
		}
		for _, old := range sizes {
			if old > size || (size > 1000 && old < 255 && old > 1) {
				continue
			}
			proof := must(tlog.ProveTree(size, old, store))
			if err := tlog.CheckTree(proof, size, root(size), old, root(old)); err != nil {
				log.Fatal(err)
			}
			out.Cons = append(out.Cons, consistency{"", old, size, root(old).String(), root(size).String(), text(proof)})
		}
	}

	for _, t := range tlog.NewTiles(8, 0, total) {
		data := must(tlog.ReadTileData(t, store))
		path := strings.Replace(t.Path(), "tile/8/", "tile/", 1)
		out.Tiles = append(out.Tiles, tile{t.L, t.N, t.W, path, fmt.Sprintf("%x", sha256.Sum256(data))})
	}

	rejectTrees(&out, store, root)
	rejectNotes(&out, root)
	encoder := json.NewEncoder(os.Stdout)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", " ")
	if err := encoder.Encode(out); err != nil {
		log.Fatal(err)
	}
}

func rejectTrees(out *vectors, store hashes, root func(int64) tlog.Hash) {
	var other hashes
	for i := int64(0); i < 1000; i++ {
		other = append(other, must(tlog.StoredHashes(i, leafData(i+1), other))...)
	}
	otherRoot := must(tlog.TreeHash(1000, other))

	incl := func(why string, proof tlog.RecordProof, size int64, root tlog.Hash, index int64, leaf tlog.Hash) {
		if tlog.CheckRecord(proof, size, root, index, leaf) == nil {
			log.Fatal("accepted: " + why)
		}
		out.Reject.Incl = append(out.Reject.Incl, inclusion{why, index, size, leaf.String(), root.String(), text(proof)})
	}
	leaf := func(i int64) tlog.Hash { return tlog.RecordHash(leafData(i)) }
	good := must(tlog.ProveRecord(1000, 5, store))
	incl("size 0", nil, 0, must(tlog.TreeHash(0, store)), 0, leaf(0))
	incl("index equal to the size", must(tlog.ProveRecord(4, 3, store)), 4, root(4), 4, leaf(3))
	incl("index past the end", must(tlog.ProveRecord(4, 1, store)), 4, root(4), 5, leaf(1))
	incl("negative index", must(tlog.ProveRecord(4, 3, store)), 4, root(4), -1, leaf(3))
	incl("another index", good, 1000, root(1000), 4, leaf(5))
	incl("another leaf", good, 1000, root(1000), 5, leaf(6))
	incl("another size", good, 500, root(1000), 5, leaf(5))
	incl("root of another tree", good, 1000, otherRoot, 5, leaf(5))
	incl("proof of another tree", must(tlog.ProveRecord(1000, 5, other)), 1000, root(1000), 5, leaf(5))
	incl("cut short", good[:len(good)-1], 1000, root(1000), 5, leaf(5))
	incl("one hash too many", append(good[:len(good):len(good)], root(1000)), 1000, root(1000), 5, leaf(5))
	incl("empty proof", nil, 1000, root(1000), 5, leaf(5))
	incl("an inner node offered as the leaf", good[1:], 1000, root(1000), 2, store[tlog.StoredHashIndex(1, 2)])

	cons := func(why string, proof tlog.TreeProof, size int64, root tlog.Hash, old int64, oldRoot tlog.Hash) {
		if tlog.CheckTree(proof, size, root, old, oldRoot) == nil {
			log.Fatal("accepted: " + why)
		}
		v := consistency{why, old, size, oldRoot.String(), root.String(), text(proof)}
		out.Reject.Cons = append(out.Reject.Cons, v)
	}
	steps := must(tlog.ProveTree(1000, 257, store))
	cons("old size 0", nil, 1000, root(1000), 0, must(tlog.TreeHash(0, store)))
	cons("old size 0 with hashes", steps, 1000, root(1000), 0, must(tlog.TreeHash(0, store)))
	cons("shrinking", steps, 257, root(257), 1000, root(1000))
	cons("another old root", steps, 1000, root(1000), 257, root(256))
	cons("another new root", steps, 1000, otherRoot, 257, root(257))
	cons("proof of another tree", must(tlog.ProveTree(1000, 257, other)), 1000, root(1000), 257, root(257))
	cons("another old size", steps, 1000, root(1000), 256, root(257))
	cons("cut short", steps[:len(steps)-1], 1000, root(1000), 257, root(257))
	cons("one hash too many", append(steps[:len(steps):len(steps)], root(9)), 1000, root(1000), 257, root(257))
	cons("empty proof between different sizes", nil, 1000, root(1000), 512, root(512))
	cons("same size, different roots", nil, 1000, root(1000), 1000, otherRoot)
	cons("same size with a proof", steps, 1000, root(1000), 1000, root(1000))
}

func rejectNotes(out *vectors, root func(int64) tlog.Hash) {
	const origin = "quancheng.example/0a1b2c3d"
	log1, vkey := key(origin, "log")
	impostor, impostorKey := key(origin, "impostor of the same name")
	elsewhere, _ := key("elsewhere.example/log", "log")
	witness, _ := key("witness.example", "witness")

	open := func(vkey, text string) error {
		_, err := note.Open([]byte(text), note.VerifierList(must(note.NewVerifier(vkey))))
		return err
	}
	accept := func(vkey, origin, text string, size int64) {
		if err := open(vkey, text); err != nil {
			log.Fatal(err)
		}
		out.Notes = append(out.Notes, signed{"", vkey, text, origin, size, root(size).String()})
	}
	good := checkpoint(origin, 1000, root(1000), log1)
	accept(vkey, origin, good, 1000)
	accept(vkey, origin, checkpoint(origin, 70000, root(70000), witness, log1), 70000)
	accept(vkey, origin, checkpoint(origin, 256, root(256), impostor, log1), 256)
	accept(impostorKey, origin, checkpoint(origin, 257, root(257), impostor), 257)

	reject := func(why, vkey, text string) {
		if open(vkey, text) == nil {
			log.Fatal("accepted: " + why)
		}
		out.Reject.Notes = append(out.Reject.Notes, signed{Why: why, Vkey: vkey, Note: text})
	}
	// The library knows notes, not checkpoints: these it takes, and a verifier of checkpoints must not.
	rejectCheckpoint := func(why, vkey, text string) {
		if err := open(vkey, text); err != nil {
			log.Fatal(err)
		}
		out.Reject.Notes = append(out.Reject.Notes, signed{Why: why, Vkey: vkey, Note: text})
	}
	sign := func(body string) string { return string(must(note.Sign(&note.Note{Text: body}, log1))) }
	fromImpostor := checkpoint(origin, 1000, root(1000), impostor)
	reject("signed by another key of the same name", vkey, fromImpostor)
	idOf := func(text string) string { return strings.Fields(text[strings.LastIndex(text, "— "):])[2] }
	forged := must(base64.StdEncoding.DecodeString(idOf(fromImpostor)))
	copy(forged, must(base64.StdEncoding.DecodeString(idOf(good)))[:4])
	disguised := strings.Replace(fromImpostor, idOf(fromImpostor), base64.StdEncoding.EncodeToString(forged), 1)
	reject("signed by another key of the same name under our key's id", vkey, disguised)
	reject("signed by the same key under another name", vkey, checkpoint(origin, 1000, root(1000), elsewhere))
	reject("size changed", vkey, strings.Replace(good, "\n1000\n", "\n1001\n", 1))
	reject("root changed", vkey, strings.Replace(good, root(1000).String(), root(999).String(), 1))
	reject("no signature", vkey, fmt.Sprintf("%s\n1000\n%s\n", origin, root(1000)))
	reject("signature cut off", vkey, good[:len(good)-1])
	reject("witness alone", vkey, checkpoint(origin, 1000, root(1000), witness))
	reject("carriage returns", vkey, strings.ReplaceAll(good, "\n", "\r\n"))
	rejectCheckpoint("of another origin than the key's name", vkey, checkpoint("another.example", 9, root(9), log1))
	rejectCheckpoint("leading zero in the size", vkey, sign(fmt.Sprintf("%s\n01000\n%s\n", origin, root(1000))))
	rejectCheckpoint("negative size", vkey, sign(fmt.Sprintf("%s\n-1\n%s\n", origin, root(1000))))
	rejectCheckpoint("no root", vkey, sign(origin+"\n1000\n"))
	rejectCheckpoint("short root", vkey, sign(origin+"\n1000\nAAAA\n"))
	rejectCheckpoint("empty extension line", vkey, sign(fmt.Sprintf("%s\n9\n%s\n\nx\n", origin, root(9))))
}
