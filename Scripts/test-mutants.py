#!/usr/bin/env python3
"""Removes one statement after the other on which durability hangs, and looks which test notices.

Usage: test-mutants.py [--build DIRECTORY] [--images N] [SITE...]

The sites are those of Sources/VolipPersistence/Laboratory.swift. Each mutant meets the test that
is named for it here or the crash images, then the other quick tests, until one kills it. A test
that crashes or hangs has killed it too. Prints a line for each site; exit status 1 if a mutant
survived, or if a test fails without any.
"""

import argparse
import os
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent

# Those that no crash image shows, with the tests that hold what they promise.
TESTS = {
    "sectorAlignment": "onTheMsyncPathEachRecordStartsOnASectorOfItsOwn",
    "blocksBeforeSeal": "aLinesBlocksAreAllocatedTogetherByTheCommit",
    "superblockNewerCopy": "ofTwoWholeCopiesTheOneWithTheHigherSequenceCounts",
    "superblockGeometry": "impossibleFieldsAreRefusedThoughTheChecksumIsRight",
    "superblockFeatures": "unknownIncompatibleFeaturesAreRefusedByName",
    "fileLengthCheck": "aTruncatedPoolIsRefusedWhereverItWasCut",
    "sealSeed": "aRecordOfAnotherPoolIsNotReplayed",
    "generationCheck": "aSealedRecordThatDoesNotFollowIsNotReplayed",
    "generationRaise": "recoveringTwiceGivesTheSameBytesAndAHigherGeneration",
    "lsnCheck": "aSealedRecordThatDoesNotFollowIsNotReplayed",
    "positionCheck": "aForgedRecordIsNeverApplied",
    "previousEndCheck": "aSealedRecordThatDoesNotFollowIsNotReplayed",
    "laterRecordCheck": "aDamagedRecordInMidLogIsRefusedAndNothingIsApplied",
    "extentBounds": "aForgedRecordIsNeverApplied",
    "recordBounds": "aRecordThatReachesOverTheEndOfTheLogIsNotReplayed",
    "laneIdentity": "aRecordOfAnotherLaneIsNotReplayed",
    "laneLsnCheck": "aRecordThatTheSuperblockSaysIsAppliedIsNotReplayed",
    "laneRestoreWait": "aRollbackWaitsForRecordsThatWereDrawnBefore",
    "laneGate": "anExclusiveSectionWaitsForAConcurrentOne",
    "laneGap": "lanesGoRoundWithGaps",
    "laneRestoreCut": "aRollbackNeverBringsBackWhatIsOlderThanAnAcknowledgedSection",
    "laneStopped": "aSectionThatWaitedForALaneThatFailedIsRefused",
    "laneOwner": "anArenaIsOneLanesAtMost",
    "laneLooks": "aLookAtAnotherLanesPagesWaitsForWholeEntries",
    "rolledBackArenas": "anArenaOfASectionThatWasTakenBackIsNoLanes",
    "deferredMany": "freedBlocksOfOthersComeBackSomeASection",
    "heapLock": "whoLooksAtTheHeapInAGroupWaitsForWhoChangesIt",
    "cancellationInGate": "aThreadThatIsCancelledInPstartLeavesNoGateClosed",
    "syncFailure": "aFenceThatFailedForOneViewIsPassedByNone",
    "gate": "threadsThatEndAnywhereLeaveWholeSections",
    "strayWriteCheck": "aWriteBetweenSectionsIsPutBackAndReported",
    "abortOnThreadExit": "aThreadThatEndsInItsSectionAbortsIt",
    "audit": "anAuditFindsTheByteThatNobodyAnnounced",
    "failedPagesCheck": "anImagePageThatFailsUnderASectionIsRebuilt",
    "lostMemoryCheck": "memoryThatFailsUnderASectionRollsItBack",
    "lostPagesWhole": "anImagePageThatFailsUnderASectionIsRebuilt",
    "rebuildImage": "anImagePageThatFailsUnderASectionIsRebuilt",
    "armByProtection": "TrackerTests/noPageIsMissedInAThousandRandomRounds",
    "lateWrites": "whatIsWrittenBetweenTakingAndArmingIsInTheWriteSet",
    "announcedGaps": "anAbortedSectionOnBothSidesOfAnnouncedPagesLeavesThemAlone",
    "armInGuest": "GuestTrackerTests",
    "guestFlush": "GuestTrackerTests",
    "armInLog": "poolsInOneMemorySlotDoNotDisturbEachOthersLog",
    "marksInLog": "aSystemCallsWriteOutsideASectionIsReportedAndPutBack",
    "fileLock": "aSecondOpenerIsRefusedInThisProcessAndInAnother",
    "lockNotInherited": "aChildThatLivesOnDoesNotKeepThePoolLocked",
    "memoryNotInherited": "aForkedChildHasNothingOfThePool",
    "heapHeaderCheck": "everyBitOfTheHeaderLine",
    "pageEntryCheck": "everyBitOfAPageTableEntryOfEachKind",
}
QUICK = ["VolipPersistenceTests|VolipPoolTests|VolipCommitTests|VolipWriteSetTests",
         "VolipHeapTests|HostilePoolTests", "VolipMemTests", "VolipMachineTests"]
TIMEOUT_SECONDS = 180
FAILURE = r"Test (\w+)\(.*?\) recorded an issue"


def run(command, site, until=None, seconds=TIMEOUT_SECONDS):
    """Exit status and output, up to the first line that matches `until`; a hang ends with 124."""
    environment = dict(os.environ, SWIFT_BACKTRACE="enable=no")
    if site:
        environment["VOLIP_MUTANT"] = site
    process = subprocess.Popen(
        ["timeout", "--kill-after=5", str(seconds)] + command, cwd=ROOT, env=environment,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    lines = []
    for line in process.stdout:
        lines.append(line)
        if until and re.search(until, line):
            process.terminate()  # timeout hands it on to what it runs
            break
    process.stdout.close()
    return process.wait(), "".join(lines)


def crash_images(build, images, site):
    """What the crash laboratory found, or nothing."""
    status, output = run(
        [f"{build}/crash-laboratory", "--distinct", str(images), "--stop-at-failure"], site)
    if status == 0:
        return None
    found = [line for line in output.splitlines()
             if re.fullmatch(r"(torn|lost|refused|unstable|unsound) [1-9]\d*", line)]
    return "crash images: " + (", ".join(found) or f"exit status {status}")


def tests(pattern, site, seconds=TIMEOUT_SECONDS):
    """The first test that fails, or nothing."""
    status, output = run(
        ["swift", "test", "--skip-build", "--disable-xctest", "--filter", pattern], site, FAILURE,
        seconds)
    if status == 0:
        return None
    failed = re.search(FAILURE, output)
    if failed:
        return failed[1]
    if status in (124, 137):
        if not site or tests(pattern, None, seconds):
            sys.exit(f"{pattern}: takes more than {seconds} s without a mutant, too")
        return f"{pattern}: hangs"
    if "Test run started" not in output:
        sys.exit(f"{pattern}: no test was run\n{output}")
    return f"{pattern}: the process dies"


def killer(build, images, site):
    found = tests(TESTS[site], site) if site in TESTS else None
    found = found or crash_images(build, images, site)
    for pattern in QUICK:
        found = found or tests(pattern, site)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", default=".build/laboratory/release",
                        help="where crash-laboratory is")
    parser.add_argument("--images", type=int, default=21000, help="crash images for each mutant")
    parser.add_argument("sites", nargs="*", metavar="SITE")
    arguments = parser.parse_args()
    build = ROOT / arguments.build
    status, output = run([f"{build}/crash-laboratory", "--sites"], None)
    known = output.split()
    if status or set(TESTS) - set(known):
        sys.exit(f"no such sites: {set(TESTS) - set(known)}" if not status else output)
    sites = arguments.sites or known
    whole = "|".join(sorted({TESTS[site] for site in sites if site in TESTS}))
    found = crash_images(build, arguments.images, None) or (
        whole and tests(whole, None, 10 * TIMEOUT_SECONDS))
    if found:
        sys.exit(f"without a mutant: {found}")
    survived = 0
    for site in sites:
        found = killer(build, arguments.images, site)
        survived += not found
        print(f"{site:24} | {found or 'SURVIVED'}", flush=True)
    print(f"mutants {len(sites)}\nkilled {len(sites) - survived}\nsurvived {survived}")
    sys.exit(1 if survived else 0)


main()
