// A peer of the log: Tessera's POSIX driver, from an append to a proof in a published, signed checkpoint.
//
// Usage: tessera-peer FOLDER APPENDS CONCURRENCY
//
// CONCURRENCY callers append one after the other until APPENDS are done. An append is over when a checkpoint
// that covers it is published and its inclusion proof has been built. Prints {"p50_ms": …, "rate": …}.
// Checkpoints come as often as the driver permits; full batches do not wait for their age.
package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	fmtlog "github.com/transparency-dev/formats/log"
	"github.com/transparency-dev/tessera"
	"github.com/transparency-dev/tessera/client"
	"github.com/transparency-dev/tessera/storage/posix"
	"golang.org/x/mod/sumdb/note"
)

const (
	batchAge           = tessera.DefaultBatchMaxAge
	checkpointInterval = 100 * time.Millisecond // the least the driver accepts
	pollPeriod         = 5 * time.Millisecond
	entryBytes         = 32 // as ours: the digest of a salted statement
)

func main() {
	if err := run(os.Args); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 4 {
		return fmt.Errorf("usage: %s FOLDER APPENDS CONCURRENCY", args[0])
	}
	appends, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	concurrency, err := strconv.Atoi(args[3])
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()

	private, public, err := note.GenerateKey(rand.Reader, "bench.example")
	if err != nil {
		return err
	}
	signer, err := note.NewSigner(private)
	if err != nil {
		return err
	}
	verifier, err := note.NewVerifier(public)
	if err != nil {
		return err
	}
	driver, err := posix.New(ctx, posix.Config{Path: args[1]})
	if err != nil {
		return err
	}
	options := tessera.NewAppendOptions().
		WithCheckpointSigner(signer).
		WithBatching(tessera.DefaultBatchMaxSize, batchAge).
		WithCheckpointInterval(checkpointInterval)
	appender, shutdown, reader, err := tessera.NewAppender(ctx, driver, options)
	if err != nil {
		return err
	}
	awaiter := tessera.NewPublicationAwaiter(ctx, reader.ReadCheckpoint, pollPeriod)

	one := func() error {
		entry := make([]byte, entryBytes)
		if _, err := rand.Read(entry); err != nil {
			return err
		}
		index, checkpoint, err := awaiter.Await(ctx, appender.Add(ctx, tessera.NewEntry(entry)))
		if err != nil {
			return err
		}
		head, _, _, err := fmtlog.ParseCheckpoint(checkpoint, "bench.example", verifier)
		if err != nil {
			return err
		}
		builder, err := client.NewProofBuilder(ctx, head.Size, reader.ReadTile)
		if err != nil {
			return err
		}
		_, err = builder.InclusionProof(ctx, index.Index)
		return err
	}

	took := make([]time.Duration, appends)
	var next atomic.Int64
	var group sync.WaitGroup
	var failed atomic.Pointer[error]
	began := time.Now()
	for range concurrency {
		group.Go(func() {
			for at := next.Add(1) - 1; at < int64(appends); at = next.Add(1) - 1 {
				start := time.Now()
				if err := one(); err != nil {
					failed.Store(&err)
					return
				}
				took[at] = time.Since(start)
			}
		})
	}
	group.Wait()
	elapsed := time.Since(began)
	if err := failed.Load(); err != nil {
		return *err
	}
	if err := shutdown(ctx); err != nil {
		return err
	}
	slices.Sort(took)
	return json.NewEncoder(os.Stdout).Encode(map[string]float64{
		"p50_ms": float64(took[appends/2].Microseconds()) / 1000,
		"rate":   float64(appends) / elapsed.Seconds(),
	})
}
