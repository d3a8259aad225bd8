#!/bin/sh
# into-initfs.sh BASE: has a checkout of base put iommud, iommu-run and the policy into its initfs, and start iommud
# before any driver. Done once or again, it comes to the same. Where base is not as it was on 2026-08-21 and a line has
# no place to go, it says which and ends with an error.
set -eu
base=$1
spawner=$base/init.initfs.d/40_pcid-spawner-initfs.service
makefile=$base/Makefile

fail() {
    echo "$0: $1 has no place for $2" >&2
    exit 1
}

# No driver is started before the IOMMU translates.
grep -q '"40_iommud.service"' "$spawner" ||
    sed -i 's/^requires_weak = .*"40_hwd\.service"/&, "40_iommud.service"/' "$spawner"
grep -q '"40_iommud.service"' "$spawner" || fail "$spawner" 40_iommud.service

# put FILE FOLDER: a file that the recipe iommud installs, into a folder of the initfs, with its units.
put() {
    to="\"\$(BUILD_DIR)/initfs/$2\""
    grep -q "SYSROOT)/$1\"" "$makefile" ||
        sed -i "/initfs\/lib\/init\.d\/\"\$/a\\
\\	mkdir -p $to \\&\\& cp \"\$(SYSROOT)/$1\" $to" "$makefile"
    grep -q "SYSROOT)/$1\"" "$makefile" || fail "$makefile" "$1"
}
put bin/iommud bin
put bin/iommu-run bin
put lib/init.d/40_iommud.service lib/init.d
put share/iommud/initfs/iommud.ron etc
