// crash-laboratory: recovers crash images of all workloads and says how many, and whether any was
// torn or lost. Exit status 1 if so.

import CrashLaboratory
import Glibc

let usage = """
  crash-laboratory [--distinct N] [--threads N] [--seed N] [--images-per-point N|all]
                   [--workload NAME] [--point N] [--stop-at-failure] [--list] [--sites]
  """

func fail(_ text: String) -> Never {
  let message = "\(text)\n\(usage)\n"
  write(STDERR_FILENO, message, message.utf8.count)
  exit(2)
}

var campaign = Campaign()
var threads = 2
var arguments = CommandLine.arguments.dropFirst()
while let option = arguments.popFirst() {
  func value() -> String {
    guard let text = arguments.popFirst() else { fail("\(option) needs a value") }
    return text
  }
  func number() -> Int {
    let text = value()
    guard let number = Int(text), number >= 0 else { fail("\(option) \(text): no number") }
    return number
  }
  switch option {
  case "--distinct": campaign.distinct = number()
  case "--threads": threads = max(number(), 1)
  case "--seed": campaign.seed = UInt64(number())
  case "--point": campaign.onlyPoint = number()
  case "--stop-at-failure": campaign.stopsAtFailure = true
  case "--images-per-point":
    let text = value()
    campaign.imagesPerPoint = text == "all" ? .max : Int(text)
  case "--workload":
    let name = value()
    campaign.workloads = Workload.all.filter { $0.name == name }
    if campaign.workloads.isEmpty { fail("no workload \(name)") }
  case "--list":
    for workload in Workload.all { print(workload.name) }
    exit(0)
  case "--sites":
    for site in MutationSite.allCases { print(site.rawValue) }
    exit(0)
  default: fail("unknown option \(option)")
  }
}
guard PersistenceLaboratory.isBuilt else {
  fail("built without the laboratory: build with --traits CrashLaboratory")
}
// What arrives on media is the model's to say: this machine's cache need not be flushed. libpmem
// looks once, when it is loaded.
if getenv("PMEM_NO_FLUSH") == nil {
  setenv("PMEM_NO_FLUSH", "1", 1)
  execv("/proc/self/exe", CommandLine.unsafeArgv)
}
print("seed \(campaign.seed)")
let start = ContinuousClock.now
let findings = await campaign.run(threads: threads) { workload, findings in
  print("# \(workload.name): \(findings.distinct) different images, \(findings.points) points")
  for failure in findings.failures { print(failure) }
  fflush(nil)
}
print(findings.text)
print("seconds \((ContinuousClock.now - start).components.seconds)")
exit(findings.isClean ? 0 : 1)
