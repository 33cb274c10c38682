#!/bin/sh
# Checks this bundle and installs it without a network:
#
#   sh install.sh FINGERPRINT TARGET [BUNDLE]
#
# FINGERPRINT is what the maker of the bundle told you over another channel;
# TARGET is a folder that does not exist yet, BUNDLE the bundle's, if not this script's
# own. Compare this script's SHA-256 first: nothing can check it before it runs. Where
# others can write the bundle's folder, copy the script into one of your own, and
# compare and run that copy: else it can change between the two.
set -eu

fail() {
  echo "error: $1" >&2
  exit 1
}

[ $# -eq 2 ] || [ $# -eq 3 ] || fail "say: sh install.sh FINGERPRINT TARGET [BUNDLE]"
said=$1
target=$2
python=${PYTHON:-python3}
here=$(CDPATH='' cd -- "${3:-$(dirname -- "$0")}" && pwd)

[ ! -e "$target" ] || fail "$target exists already; choose another folder."
command -v openssl >/dev/null || fail "openssl is needed to verify the signature; install it."
command -v "$python" >/dev/null || fail "$python was not found; set PYTHON=/path/to/python3."

# Whoever can write the bundle's folder can change a file between two looks at it. So each is read
# once, into a folder that nobody else may enter; what is checked and installed is that copy.
mask=$(umask)
umask 077
work=$(mktemp -d)
copy=$work/copy
half=
clean() {
  rm -rf -- "$work"
  [ -z "$half" ] || rm -rf -- "$target"
}
trap clean EXIT
trap 'exit 1' HUP INT TERM

# The key is the one that was told, and what it signed is put where openssl reads it.
"$python" -I - "$here" "$work" "$said" <<'PYTHON' || fail "nothing was installed."
import base64, hashlib, pathlib, re, shutil, sys

here, work, said = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3]
copy = work / "copy"
copy.mkdir()
for name in ("MANIFEST", "MANIFEST.sig", "signer.pub"):
    shutil.copyfile(here / name, copy / name)


def fail(why):
    sys.exit(f"error: {why}")


public = (copy / "signer.pub").read_text().strip()
signature = (copy / "MANIFEST.sig").read_text().strip()
if not re.fullmatch("[0-9a-f]{64}", public) or not re.fullmatch("[0-9a-f]{128}", signature):
    fail("signer.pub or MANIFEST.sig is damaged.")
letters = str.maketrans("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", "0123456789ABCDEFGHJKMNPQRSTVWXYZ")
spoken = str.maketrans("OIL", "011", " -\t")
digest = hashlib.sha256(bytes.fromhex(public)).digest()
if said.upper().translate(spoken) != base64.b32encode(digest).decode().translate(letters)[:20]:
    fail("the bundle was signed with another key than the one whose fingerprint you gave.")
manifest = hashlib.sha256((copy / "MANIFEST").read_bytes()).hexdigest()
statement = f'septum/1 offline bundle\n{{"manifest":"{manifest}"}}'
(work / "statement").write_bytes(statement.encode())
(work / "signature").write_bytes(bytes.fromhex(signature))
# SubjectPublicKeyInfo of an Ed25519 key (RFC 8410, section 4).
(work / "key").write_bytes(bytes.fromhex("302a300506032b6570032100" + public))
PYTHON

openssl pkeyutl -verify -pubin -keyform DER -inkey "$work/key" -rawin \
  -in "$work/statement" -sigfile "$work/signature" >/dev/null 2>&1 ||
  fail "the signature does not verify: the bundle was changed, or damaged. Nothing was installed."

# Every file is as it was signed, and there is no other.
"$python" -I - "$here" "$copy" <<'PYTHON' || fail "nothing was installed."
import hashlib, pathlib, sys

here, copy = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
listed = {}
for line in (copy / "MANIFEST").read_text().splitlines():
    digest, _, name = line.partition("  ")
    listed[name] = digest
there = {path.relative_to(here).as_posix() for path in here.rglob("*") if not path.is_dir()}
there -= {"MANIFEST", "MANIFEST.sig", "signer.pub"}
wrong = sorted(there ^ set(listed))
for name in sorted(there & set(listed)):
    path = here / name
    digest = hashlib.sha256()
    (copy / name).parent.mkdir(parents=True, exist_ok=True)
    with path.open("rb") as file, (copy / name).open("xb") as kept:
        while part := file.read(1 << 20):
            digest.update(part)
            kept.write(part)
    if path.is_symlink() or digest.hexdigest() != listed[name]:
        wrong.append(name)
if wrong:
    sys.exit(f"error: not as it was signed: {', '.join(wrong[:8])}.")
PYTHON

half=yes
umask "$mask"
"$python" -I -m venv "$target"
"$target/bin/python" -I -m pip --isolated --disable-pip-version-check --no-input install --quiet \
  --no-index -f "$copy/wheels" --require-hashes --only-binary :all: --no-cache-dir --no-compile \
  -r "$copy/requirements.lock"
"$target/bin/python" -I -m pip --isolated --disable-pip-version-check check
half=
echo "Installed in $target. Run: $target/bin/septum --help"
