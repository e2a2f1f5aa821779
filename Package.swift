// swift-tools-version: 6.2
import PackageDescription

/// The hooks and mutants of the crash laboratory: in debug builds, and in release builds with the
/// trait. No other build has them.
let laboratory = "CrashLaboratory"
let swiftSettings: [SwiftSetting] = [
  .treatAllWarnings(as: .error),
  .define("VOLIP_LAB", .when(configuration: .debug)),
  .define("VOLIP_LAB", .when(traits: [laboratory])),
]
let cSettings: [CSetting] = [
  .treatAllWarnings(as: .error),
  .define("VOLIP_LAB", .when(configuration: .debug)),
  .define("VOLIP_LAB", .when(traits: [laboratory])),
]

func cTarget(_ name: String) -> Target {
  .target(name: name, path: "CSupport/\(name)", cSettings: cSettings)
}

func core(_ name: String, _ dependencies: [Target.Dependency]) -> Target {
  .target(name: name, dependencies: dependencies, swiftSettings: swiftSettings)
}

let tests: [(String, [Target.Dependency])] = [
  ("VolipPersistenceTests", ["VolipPersistence", "CVolipPersistence"]),
  ("VolipPoolTests", ["VolipPool"]),
  ("VolipMachineTests", ["VolipMachine", "CVolimem", "volip-test-helper", "volip-guest-program"]),
  ("VolipWriteSetTests", ["VolipWriteSet", "CVolipWriteSet"]),
  ("VolipCommitTests", ["VolipCommit", "CTestSupport"]),
  ("VolipHeapTests", ["VolipHeap"]),
  ("VolipMemTests", ["VolipMem", "volip-test-helper"]),
  ("CollectionTests", ["VolipMem", "CVolipWriteSet", "volip-test-helper"]),
  ("HostilePoolTests", ["VolipMem", "CTestSupport", "volip-test-helper"]),
  ("CrashTests", ["VolipMem", "PersistentHashmap", "volip-test-helper"]),
  ("CrashLaboratoryTests", ["CrashLaboratory"]),
  ("ExampleTests", ["hashmap-demo", "collection-examples", "memcached-demo"]),
  ("ProgramTests", ["CLibelf", "volip-plain-program"]),
  ("ToolTests", ["VolipMem", "VolipTool", "volip-test-helper"]),
  ("CFaceTests", []),
  ("DocumentationTests", []),
  ("WrapTests", ["volip-wrap-program"]),
  ("StyleTests", []),
]

/// What tests read or hand to compilers of their own.
let notCompiled = ["HostilePoolTests": ["Corpus"], "CFaceTests": ["Programs"]]

// The order is the way of the data: a module imports only modules above it. StyleTests checks it.
let package = Package(
  name: "volipmem",
  products: [
    .library(name: "VolipMem", targets: ["VolipMem"]),
    .library(name: "PersistentHashmap", targets: ["PersistentHashmap"]),
    .library(name: "VolipPreload", type: .dynamic, targets: ["CVolipPreload"]),
    // Installed as libvolip.so: there is a product of that name already.
    .library(name: "VolipC", type: .dynamic, targets: ["VolipC"]),
    .library(name: "VolipWrap", type: .dynamic, targets: ["CVolipWrap", "VolipWrap"]),
    .executable(name: "volip", targets: ["VolipTool"]),
  ],
  traits: [.trait(name: laboratory, description: "Hooks and mutants of the crash laboratory")],
  dependencies: [
    .package(url: "https://github.com/swiftlang/swift-subprocess", from: "1.0.0", traits: []),
    .package(url: "https://github.com/apple/swift-system", from: "1.8.0"),
    .package(url: "https://github.com/HdrHistogram/hdrhistogram-swift", from: "0.2.0"),
    .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.0"),
  ],
  targets: [
    .systemLibrary(
      name: "CLibpmem", path: "CSupport/CLibpmem", pkgConfig: "libpmem",
      providers: [.apt(["libpmem-dev"])]),
    .systemLibrary(
      name: "CLibelf", path: "CSupport/CLibelf", pkgConfig: "libelf",
      providers: [.apt(["libelf-dev"])]),
    cTarget("CVolipPersistence"),
    cTarget("CVolipWriteSet"),
    .target(
      name: "CVolimem", dependencies: ["CLibelf"], path: "CSupport/CVolimem", cSettings: cSettings),

    .target(
      name: "CVolipEnter", dependencies: ["CVolimem"], path: "CSupport/CVolipEnter",
      cSettings: cSettings),
    .target(
      name: "CVolipPreload", dependencies: ["CVolipEnter"], path: "CSupport/CVolipPreload",
      cSettings: cSettings,
      // It goes into foreign programs: without the Swift runtime and what starts it.
      linkerSettings: [.unsafeFlags(["-nostartfiles"])]),
    // The same with pools, which need the Swift runtime: in it, and seen by nobody else.
    .target(
      name: "CVolipWrap", dependencies: ["CVolipEnter"], path: "CSupport/CVolipWrap",
      exclude: ["symbols.map"],
      // A thread that is cancelled in a wait leaves it as one that returns.
      cSettings: cSettings + [.unsafeFlags(["-fexceptions"])],
      linkerSettings: [
        .unsafeFlags([
          "-static-stdlib", "-Xlinker", "--exclude-libs=ALL",
          "-Xlinker",
          "--version-script=\(Context.packageDirectory)/CSupport/CVolipWrap/symbols.map",
        ])
      ]),

    core("VolipPersistence", ["CLibpmem", "CVolipPersistence"]),
    core("VolipPool", ["VolipPersistence"]),
    core("VolipMachine", ["VolipPool", "CVolimem"]),
    core("VolipWriteSet", ["VolipMachine", "CVolipWriteSet"]),
    core("VolipCommit", ["VolipWriteSet"]),
    core("VolipWrap", ["VolipCommit"]),
    core("VolipHeap", ["VolipCommit"]),
    .target(
      name: "VolipMem", dependencies: ["VolipHeap"],
      // For properties that give spans.
      swiftSettings: swiftSettings + [.enableExperimentalFeature("Lifetimes")]),

    .target(name: "CVolip", path: "CSupport/CVolip", exclude: ["volip.map"], cSettings: cSettings),
    .target(
      name: "VolipC", dependencies: ["VolipMem", "CVolip"], swiftSettings: swiftSettings,
      // It goes into programs that know nothing of Swift: with the runtime inside, and nothing to
      // be seen from outside but volip.h.
      linkerSettings: [
        .unsafeFlags([
          "-static-stdlib", "-Xlinker", "-soname=libvolip.so.0", "-Xlinker",
          "--version-script=\(Context.packageDirectory)/CSupport/CVolip/volip.map",
        ])
      ]),

    .executableTarget(
      name: "VolipTool",
      dependencies: [
        "VolipMem", "VolipWrap", "CLibelf",
        .product(name: "ArgumentParser", package: "swift-argument-parser"),
      ],
      swiftSettings: swiftSettings,
      // What is installed runs where there is no Swift. Debug builds are part of test bundles, which
      // have the runtime beside them.
      linkerSettings: [
        .unsafeFlags(
          ["-static-stdlib", "-l_FoundationCollections", "-l_FoundationCShims"],
          .when(configuration: .release))
      ]),

    .target(
      name: "PersistentHashmap", dependencies: ["VolipMem"], path: "Examples/Hashmap/Map",
      swiftSettings: swiftSettings),
    .executableTarget(
      name: "hashmap-demo",
      dependencies: [
        "PersistentHashmap", .product(name: "Histogram", package: "hdrhistogram-swift"),
        .product(name: "ArgumentParser", package: "swift-argument-parser"),
        .product(name: "Subprocess", package: "swift-subprocess"),
        .product(name: "SystemPackage", package: "swift-system"),
      ],
      path: "Examples/Hashmap/Demo", swiftSettings: swiftSettings),

    .executableTarget(
      name: "collection-examples", dependencies: ["VolipMem"], path: "Examples/Collections",
      swiftSettings: swiftSettings),

    .executableTarget(
      name: "memcached-demo",
      dependencies: [
        "VolipWrap", .product(name: "ArgumentParser", package: "swift-argument-parser"),
      ],
      path: "Examples/Memcached", swiftSettings: swiftSettings),

    // What tests run in a process of its own: entering states that a test runner must not be in.
    .executableTarget(
      name: "volip-test-helper",
      dependencies: ["VolipMem", "CVolimem", "CTestSupport", "HostilePool", "TestBasics"],
      path: "Tests/Helper",
      swiftSettings: swiftSettings),
    // An ordinary program that must not notice whether it runs in guest mode.
    .executableTarget(
      name: "volip-guest-program", dependencies: ["VolipMachine"], path: "Tests/GuestProgram",
      swiftSettings: swiftSettings),
    // A program in C that knows nothing of this package.
    .executableTarget(
      name: "volip-plain-program", path: "Tests/PlainProgram", cSettings: cSettings,
      linkerSettings: [.linkedLibrary("m"), .linkedLibrary("pthread")]),
    .executableTarget(
      name: "volip-wrap-program", path: "Tests/WrapProgram", cSettings: cSettings,
      linkerSettings: [.linkedLibrary("pthread")]),
    // A pool from any bytes, opened and used: for tests, and for libFuzzer (`make fuzz`).
    .target(
      name: "HostilePool", dependencies: ["VolipMem", "CVolipPersistence"],
      path: "Tests/HostilePool", swiftSettings: swiftSettings),
    .target(name: "CTestSupport", path: "Tests/CTestSupport", cSettings: cSettings),
    // Crash images in process; `make test-crash` runs the program, tests a slice of the same.
    .target(
      name: "CrashLaboratory", dependencies: ["VolipMem", "PersistentHashmap", "TestBasics"],
      path: "Tests/CrashLaboratory", swiftSettings: swiftSettings),
    .executableTarget(
      name: "crash-laboratory", dependencies: ["CrashLaboratory"],
      path: "Tests/CrashLaboratoryProgram", swiftSettings: swiftSettings),
    .target(
      name: "TestBasics", dependencies: ["VolipMem"], path: "Tests/TestBasics",
      swiftSettings: swiftSettings),
    .target(
      name: "TestSupport",
      dependencies: [
        "TestBasics", .product(name: "Subprocess", package: "swift-subprocess"),
        .product(name: "SystemPackage", package: "swift-system"),
      ],
      path: "Tests/TestSupport", swiftSettings: swiftSettings),
  ]
    + tests.map { name, dependencies in
      .testTarget(
        name: name, dependencies: dependencies + ["TestSupport"],
        exclude: notCompiled[name] ?? [], swiftSettings: swiftSettings)
    },
  swiftLanguageModes: [.v6],
  cLanguageStandard: .gnu11
)

// Its main is libFuzzer's: built by `make fuzz` alone.
if Context.environment["VOLIP_FUZZER"] != nil {
  package.targets.append(
    .executableTarget(
      name: "volip-fuzzer", dependencies: ["HostilePool"], path: "Tests/Fuzzer",
      swiftSettings: swiftSettings + [.unsafeFlags(["-parse-as-library"])]))
}
