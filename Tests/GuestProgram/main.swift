import Foundation
import VolipMachine

// An ordinary Swift program: Foundation, Dispatch, threads, tasks. It prints the same lines whether
// it runs natively or, with --guest, as a virtual machine.

if CommandLine.arguments.contains("--guest") {
  do {
    try VirtualMachine.enter()
  } catch {
    print("not entered: \(error)")
    exit(1)
  }
}
let isGuest = CommandLine.arguments.contains("--guest")
guard VirtualMachine.isEntered == isGuest else { fatalError("not where it should be") }

try useFiles()
try useJSON()
useDates()
try useProcesses()
useText()
useNumbers()
useQueues()
useThreads()
useMutexes()
await useTasks()
await useActors()
print("end")
