#!/bin/sh
# Writes dsse.json: golden DSSE envelopes signed by stock OpenSSL (3.0 or later) over bytes put together by printf.
#
#	cd tests/vectors/generate && sh dsse.sh > ../dsse.json
#
# The keys are fixed seeds and Ed25519 is deterministic, so the output is the same on every run.
set -eu
work=$(mktemp -d)
trap 'rm -r "$work"' EXIT

# PKCS 8 of an Ed25519 key is this prefix and the 32-byte seed (RFC 8410).
private() { printf '302e020100300506032b657004220420%s' "$1" | xxd -r -p >"$work/$2.der"; }
public() { openssl pkey -inform DER -in "$work/$1.der" -pubout -outform DER | tail -c 32; }
text64() { base64 -w0; }
# sign KEY PAE-FILE
sign() { openssl pkeyutl -sign -keyform DER -inkey "$work/$1.der" -rawin -in "$2" | text64; }
# pae TYPE PAYLOAD-FILE: lengths are in bytes
pae() {
	printf 'DSSEv1 %d %s %d ' "$(printf %s "$1" | wc -c)" "$1" "$(wc -c <"$2")"
	cat "$2"
}
# vector NAME TYPE PAYLOAD-FILE SIGNER KEYID-OF TYPE-SIGNED
vector() {
	pae "$6" "$3" >"$work/pae"
	printf ' {"name": "%s", "pae": "%s", "envelope": {"payloadType": "%s", "payload": "%s", "signatures": [{"keyid": "%s", "sig": "%s"}]}}' \
		"$1" "$(text64 <"$work/pae")" "$2" "$(text64 <"$3")" "$(public "$5" | sha256sum | cut -c1-64)" "$(sign "$4" "$work/pae")"
}

# The first seed is that of RFC 8032 section 7.1, test 1.
private 9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60 ours
private 4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb other
kind=application/vnd.quancheng.receipt.v1+json
closing=application/vnd.quancheng.closing.v1+json
printf '{"recording":"0193570c-0000-7000-8000-000000000001","sequence":1}' >"$work/plain"
printf '{"note":"执法记录仪 🚓","sequence":2}' >"$work/chinese"
printf '{}' >"$work/empty"

printf '{"type": "%s",\n"public_key": "%s",\n"key_id": "%s",\n"good": [\n' \
	"$kind" "$(public ours | text64)" "$(public ours | sha256sum | cut -c1-64)"
vector plain $kind "$work/plain" ours ours $kind && echo ,
vector "more bytes than characters" $kind "$work/chinese" ours ours $kind && echo ,
vector "empty object" $kind "$work/empty" ours ours $kind
printf '\n],\n"must_reject": [\n'
vector "signed by another key under our key's id" $kind "$work/plain" other ours $kind && echo ,
vector "signed by another key under its own id" $kind "$work/plain" other other $kind && echo ,
vector "signed as another type" $kind "$work/plain" ours ours $closing && echo ,
vector "another type, rightly signed" $closing "$work/plain" ours ours $closing
printf '\n]}\n'
