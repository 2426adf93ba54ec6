// Many files as one ZIP archive, stored as they are: pictures are compressed already. Format: PKWARE's APPNOTE 6.3.

const TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let value = byte;
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? 0xedb88320 ^ (value >>> 1) : value >>> 1;
  return value;
});

function crc32(bytes) {
  let value = 0xffffffff;
  for (const byte of bytes) value = TABLE[(value ^ byte) & 255] ^ (value >>> 8);
  return (value ^ 0xffffffff) >>> 0;
}

/** A Blob with the archive of `files`: [name, Blob]. Names that come twice get a number. */
export async function zip(files) {
  const parts = [];
  const central = [];
  const taken = new Set();
  let offset = 0;
  for (const [wanted, blob] of files) {
    const name = new TextEncoder().encode(unused(wanted, taken));
    const data = new Uint8Array(await blob.arrayBuffer());
    const common = fields([20, 2], [0x0800, 2], [0, 2], [0, 2], [33, 2], [crc32(data), 4], [data.length, 4], [data.length, 4], [name.length, 2]);
    const head = [fields([0x04034b50, 4]), common, fields([0, 2]), name];
    central.push(fields([0x02014b50, 4], [20, 2]), common, fields([0, 2], [0, 2], [0, 2], [0, 2], [0, 4], [offset, 4]), name);
    parts.push(...head, data);
    offset += head.reduce((sum, part) => sum + part.length, data.length);
  }
  const size = central.reduce((sum, part) => sum + part.length, 0);
  const count = files.length;
  const end = fields([0x06054b50, 4], [0, 2], [0, 2], [count, 2], [count, 2], [size, 4], [offset, 4], [0, 2]);
  return new Blob([...parts, ...central, end], { type: "application/zip" });
}

/** Whole numbers, [value, bytes], in little-endian order. */
function fields(...values) {
  return Uint8Array.from(values.flatMap(([value, bytes]) => Array.from({ length: bytes }, (_, index) => (value >>> (8 * index)) & 255)));
}

function unused(name, taken) {
  let free = name;
  for (let number = 2; taken.has(free); number++) free = name.replace(/(\.\w+)?$/, `-${number}$1`);
  taken.add(free);
  return free;
}
