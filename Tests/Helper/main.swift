import Glibc

// volip-test-helper VERB ARGUMENTS: what tests do in a process of its own. Prints one line of
// results on standard output; each verb is a function in a file of its own.

let arguments = Array(CommandLine.arguments.dropFirst())
guard let verb = arguments.first, let run = verbs[verb] else {
  print("unknown verb")
  exit(64)
}
do {
  try run(Array(arguments.dropFirst()))
} catch {
  print("error \(error)")
  exit(1)
}
