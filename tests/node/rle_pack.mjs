// Encodes and decodes with @thi.ng/rle-pack, for tests/integration/test_rle_pack.py: a JSON request a line on
// standard input, a JSON answer a line on standard output. Bytes are base64. The argument is the package's folder.
import { join } from "node:path";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const { decode, encode } = await import(pathToFileURL(join(process.argv[2], "index.js")));

const bytes = (text) => new Uint8Array(Buffer.from(text, "base64"));
const text = (values) => Buffer.from(values.buffer, values.byteOffset, values.byteLength).toString("base64");

// As Label Studio's editor does: a pixel's 4 channels all hold its alpha.
const channels = (alphas) => {
    const pixels = new Uint32Array(alphas.length);
    for (let pixel = 0; pixel < alphas.length; pixel++) pixels[pixel] = alphas[pixel] * 0x01010101;
    return new Uint8Array(pixels.buffer);
};

const answers = {
    encode: ({ values }) => ({ rle: text(encode(bytes(values), bytes(values).length)) }),
    encodeAlphas: ({ alphas }) => {
        const values = channels(bytes(alphas));
        return { rle: text(encode(values, values.length)) };
    },
    decode: ({ rle }) => {
        const values = decode(bytes(rle));
        const alphas = new Uint8Array(values.length / 4);
        for (let pixel = 0; pixel < alphas.length; pixel++) alphas[pixel] = values[4 * pixel + 3];
        return { alphas: text(alphas), allChannels: Buffer.compare(channels(alphas), values) === 0 };
    },
};

for await (const line of createInterface({ input: process.stdin })) {
    const request = JSON.parse(line);
    console.log(JSON.stringify(answers[request.do](request)));
}
