// Json: what verbs print with --json: one object on one line, its keys in a fixed order.

enum Json: CustomStringConvertible, Sendable {
  case null
  case bool(Bool)
  case number(Int64)
  case count(UInt64)
  case decimal(Double)
  case text(String)
  case list([Json])
  case object([(String, Json)])

  /// Raised when a key of any verb's object changes its meaning or goes.
  static let format = 1

  init(_ value: Int) { self = .number(Int64(value)) }
  init(_ value: UInt64) { self = .count(value) }

  /// A verb's object: the format comes first.
  static func result(_ fields: [(String, Json)]) -> Json {
    .object([("format", Json(format))] + fields)
  }

  var description: String {
    switch self {
    case .null: "null"
    case .bool(let value): "\(value)"
    case .number(let value): "\(value)"
    case .count(let value): "\(value)"
    case .decimal(let value): value.isFinite ? "\(value)" : "null"
    case .text(let value): Self.quoted(value)
    case .list(let values): "[\(values.map(\.description).joined(separator: ","))]"
    case .object(let fields):
      "{\(fields.map { "\(Self.quoted($0)):\($1)" }.joined(separator: ","))}"
    }
  }

  static func quoted(_ text: String) -> String {
    let hexadecimal = Array("0123456789abcdef".unicodeScalars)
    var result = "\""
    for scalar in text.unicodeScalars {
      switch scalar {
      case "\"", "\\":
        result += "\\"
        result.unicodeScalars.append(scalar)
      case "\n": result += "\\n"
      case _ where scalar.value < 0x20 || scalar.value == 0x7F:
        result += "\\u00"
        result.unicodeScalars.append(hexadecimal[Int(scalar.value >> 4)])
        result.unicodeScalars.append(hexadecimal[Int(scalar.value & 0xF)])
      default: result.unicodeScalars.append(scalar)
      }
    }
    return result + "\""
  }
}
