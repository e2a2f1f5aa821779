// swift-tools-version: 6.2
import PackageDescription

// A package of its own, so that the library does not depend on what only measuring needs.
let package = Package(
  name: "volip-benchmarks",
  dependencies: [
    .package(name: "volipmem", path: ".."),
    .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.0"),
  ],
  targets: [
    // Debian: libpmemobj-dev, liblmdb-dev (Scripts/dependencies.sh bench).
    .target(
      name: "CPeers", path: "CSupport/CPeers",
      linkerSettings: [.linkedLibrary("pmemobj"), .linkedLibrary("lmdb")]),
    .executableTarget(
      name: "volip-bench",
      dependencies: [
        "CPeers",
        .product(name: "VolipMem", package: "volipmem"),
        .product(name: "PersistentHashmap", package: "volipmem"),
        .product(name: "ArgumentParser", package: "swift-argument-parser"),
      ],
      swiftSettings: [.treatAllWarnings(as: .error)]),
  ],
  swiftLanguageModes: [.v6]
)
