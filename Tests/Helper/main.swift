import Glibc
import VolipMem

// volip-test-helper VERB ARGUMENTS: what tests do in a process of its own. Prints one line of
// results on standard output; each verb is a function in a file of its own. With VOLIP_TEST_GUEST
// in the environment the process enters guest mode first.

let arguments = Array(CommandLine.arguments.dropFirst())
guard let verb = arguments.first, let run = verbs[verb] else {
  print("unknown verb")
  exit(64)
}
do {
  if getenv("VOLIP_TEST_GUEST") != nil { try VirtualMachine.enter() }
  try run(Array(arguments.dropFirst()))
} catch {
  print("error \(error)")
  exit(1)
}
