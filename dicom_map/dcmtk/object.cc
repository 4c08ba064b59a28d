// SPDX-License-Identifier: Apache-2.0
#include "dicom_map/dcmtk/object.h"

#include <dcmtk/config/osconfig.h>
// osconfig.h comes first, as DCMTK wants it
#include <dcmtk/dcmdata/dcistrmb.h>
#include <dcmtk/dcmdata/dcostrmb.h>
#include <dcmtk/dcmdata/dctk.h>
#include <dcmtk/dcmjpeg/djdecode.h>
#include <dcmtk/dcmjpls/djdecode.h>
#include <dcmtk/oflog/oflog.h>

#include <cstdlib>
#include <cstring>
#include <exception>
#include <memory>
#include <mutex>
#include <new>

struct dcm_object {
    DcmDataset dataset;
};

// A dcm_item is a DcmItem under another name.
static DcmItem *thaw(const struct dcm_item *item)
{
    return reinterpret_cast<DcmItem *>(const_cast<struct dcm_item *>(item));
}

static struct dcm_item *freeze(DcmItem *item)
{
    return reinterpret_cast<struct dcm_item *>(item);
}

static DcmTagKey key_of(uint32_t tag)
{
    return DcmTagKey(static_cast<Uint16>(tag >> 16), static_cast<Uint16>(tag & 0xFFFF));
}

// Runs `body`, which returns a fault number; nothing that is thrown gets out.
template <class Body> static int guarded(struct fault_note *why, const Body &body)
{
    try {
        return body();
    } catch (const std::bad_alloc &) {
        return fault_set(why, FAULT_NO_MEMORY, "the DICOM library ran out of memory");
    } catch (const std::exception &e) {
        return fault_set(why, FAULT_INTERNAL, "the DICOM library threw: %s", e.what());
    } catch (...) {
        return fault_set(why, FAULT_INTERNAL, "the DICOM library threw something");
    }
}

static int condition_fault(struct fault_note *why, enum fault fault, const OFCondition &condition,
                           const char *what)
{
    return fault_set(why, fault, "cannot %s: %s", what, condition.text());
}

int dcm_setup(struct fault_note *why)
{
    static std::once_flag once;
    static bool has_dictionary = false;
    return guarded(why, [&] {
        std::call_once(once, [] {
            OFLog::configure(OFLogger::OFF_LOG_LEVEL);
            has_dictionary = dcmDataDict.isDictionaryLoaded();
            // What an archive sent on as UN gets its VR back, as far as the dictionary knows it.
            dcmEnableUnknownVRConversion.set(OFTrue);
            // "Correction" would drop padding, and what is copied is copied byte for byte.
            dcmEnableAutomaticInputDataCorrection.set(OFFalse);
            DJDecoderRegistration::registerCodecs();
            DJLSDecoderRegistration::registerCodecs();
        });
        return has_dictionary ? 0
                              : fault_set(why, FAULT_CONFIG,
                                          "the DICOM data dictionary is not loaded "
                                          "(package dcmtk's dicom.dic, or DCMDICTPATH)");
    });
}

int dcm_object_parse(const void *dataset, size_t size, const char *transfer_syntax, int header_only,
                     struct dcm_object **object, struct fault_note *why)
{
    int rc = dcm_setup(why);
    if (rc != 0)
        return rc;
    return guarded(why, [&] {
        std::unique_ptr<dcm_object> made(new dcm_object);
        DcmInputBufferStream stream;
        stream.setBuffer(dataset, static_cast<offile_off_t>(size));
        stream.setEos();
        DcmXfer xfer(transfer_syntax);
        made->dataset.transferInit();
        OFCondition condition =
            header_only ? made->dataset.readUntilTag(stream, xfer.getXfer(), EGL_noChange, DCM_MaxReadLength,
                                                     DCM_PixelData)
                        : made->dataset.read(stream, xfer.getXfer(), EGL_noChange, DCM_MaxReadLength);
        made->dataset.transferEnd();
        if (condition.bad())
            return condition_fault(why, FAULT_BAD_HEADER, condition, "parse the object");
        *object = made.release();
        return 0;
    });
}

int dcm_object_new(struct dcm_object **object, struct fault_note *why)
{
    int rc = dcm_setup(why);
    if (rc != 0)
        return rc;
    return guarded(why, [&] {
        *object = new dcm_object;
        return 0;
    });
}

void dcm_object_free(struct dcm_object *object)
{
    delete object;
}

struct dcm_item *dcm_root(const struct dcm_object *object)
{
    return freeze(&const_cast<struct dcm_object *>(object)->dataset);
}

static DcmElement *find(const struct dcm_item *item, uint32_t tag)
{
    DcmElement *element = nullptr;
    if (item == nullptr || thaw(item)->findAndGetElement(key_of(tag), element).bad())
        return nullptr;
    return element;
}

// A copy to look at: reading a text out of an element strips its padding for good, and what is copied later
// is to be copied byte for byte.
static std::unique_ptr<DcmElement> copy_of(const DcmElement *element)
{
    return std::unique_ptr<DcmElement>(element ? dynamic_cast<DcmElement *>(element->clone()) : nullptr);
}

int dcm_has(const struct dcm_item *item, uint32_t tag)
{
    int found = 0;
    guarded(nullptr, [&] {
        found = find(item, tag) != nullptr;
        return 0;
    });
    return found;
}

long dcm_get_text(const struct dcm_item *item, uint32_t tag, char *out, size_t size)
{
    long length = -1;
    out[0] = '\0';
    guarded(nullptr, [&] {
        std::unique_ptr<DcmElement> element = copy_of(find(item, tag));
        OFString text;
        if (element == nullptr)
            return 0;
        if (element->getLength() > 0 &&
            (!element->isaString() || element->getOFStringArray(text, OFFalse).bad()))
            return 0;
        size_t n = text.length();
        while (n > 0 && (text[n - 1] == ' ' || text[n - 1] == '\0'))
            n--;
        if (n >= size)
            n = size - 1;
        memcpy(out, text.data(), n);
        out[n] = '\0';
        length = static_cast<long>(n);
        return 0;
    });
    return length;
}

int dcm_get_number(const struct dcm_item *item, uint32_t tag, int index, double *out)
{
    int found = 0;
    guarded(nullptr, [&] {
        DcmElement *element = find(item, tag);
        if (element == nullptr || index < 0)
            return 0;
        const unsigned long at = static_cast<unsigned long>(index);
        Uint16 us = 0;
        Sint16 ss = 0;
        Uint32 ul = 0;
        Sint32 sl = 0;
        Float32 fl = 0;
        Float64 fd = 0;
        Uint8 *bytes = nullptr;
        double value = 0;
        if (element->ident() == EVR_FD && element->getFloat64(fd, at).good())
            value = fd;
        else if (element->ident() == EVR_FL && element->getFloat32(fl, at).good())
            value = fl;
        else if (element->ident() == EVR_US && element->getUint16(us, at).good())
            value = us;
        else if (element->ident() == EVR_SS && element->getSint16(ss, at).good())
            value = ss;
        else if (element->ident() == EVR_UL && element->getUint32(ul, at).good())
            value = ul;
        else if (element->ident() == EVR_SL && element->getSint32(sl, at).good())
            value = sl;
        else if (element->ident() == EVR_UN && (tag >> 16 & 1) != 0 && at < element->getLength() / 2 &&
                 element->getUint8Array(bytes).good() && bytes != nullptr)
            value = static_cast<Sint16>(bytes[2 * at] | bytes[2 * at + 1] << 8);
        else
            return 0;
        *out = value;
        found = 1;
        return 0;
    });
    return found;
}

int dcm_get_tag(const struct dcm_item *item, uint32_t tag, uint32_t *out)
{
    int found = 0;
    guarded(nullptr, [&] {
        DcmElement *element = find(item, tag);
        DcmTagKey key;
        auto *tags = dynamic_cast<DcmAttributeTag *>(element);
        if (tags == nullptr || tags->getTagVal(key, 0).bad())
            return 0;
        *out = static_cast<uint32_t>(key.getGroup()) << 16 | key.getElement();
        found = 1;
        return 0;
    });
    return found;
}

const struct dcm_item *dcm_get_item(const struct dcm_item *item, uint32_t tag, int index)
{
    const struct dcm_item *found = nullptr;
    guarded(nullptr, [&] {
        auto *sequence = dynamic_cast<DcmSequenceOfItems *>(find(item, tag));
        if (sequence != nullptr && index >= 0 && static_cast<unsigned long>(index) < sequence->card())
            found = freeze(sequence->getItem(static_cast<unsigned long>(index)));
        return 0;
    });
    return found;
}

int dcm_equal(const struct dcm_item *a, const struct dcm_item *b, uint32_t tag)
{
    int equal = 0;
    guarded(nullptr, [&] {
        std::unique_ptr<DcmElement> left = copy_of(find(a, tag));
        std::unique_ptr<DcmElement> right = copy_of(find(b, tag));
        if (left == nullptr || right == nullptr)
            equal = left == right;
        else
            equal = left->compare(*right) == 0;
        return 0;
    });
    return equal;
}

// A text of odd length, or a UID padded with blanks, gets the padding that the standard wants.
static void repair(DcmObject *object)
{
    auto *element = dynamic_cast<DcmByteString *>(object);
    OFString text;
    if (element == nullptr || (element->getLength() % 2 == 0 && element->ident() != EVR_UI))
        return;
    if (element->getOFStringArray(text, OFFalse).bad())
        return;
    size_t n = text.length();
    while (n > 0 && (text[n - 1] == '\0' || text[n - 1] == ' '))
        n--;
    (void)element->putOFStringArray(text.substr(0, n));
}

// Removes private elements and group lengths, at every depth. Depth is bounded by the pre-scan.
static void strip(DcmObject *object)
{
    repair(object);
    if (auto *sequence = dynamic_cast<DcmSequenceOfItems *>(object)) {
        for (unsigned long i = 0; i < sequence->card(); i++)
            strip(sequence->getItem(i));
        return;
    }
    auto *item = dynamic_cast<DcmItem *>(object);
    if (item == nullptr)
        return;
    for (unsigned long i = item->card(); i-- > 0;) {
        DcmElement *element = item->getElement(i);
        if ((element->getGTag() & 1) != 0 || element->getETag() == 0)
            delete item->remove(i);
        else
            strip(element);
    }
}

int dcm_copy(struct dcm_item *to, const struct dcm_item *from, uint32_t tag, struct fault_note *why)
{
    return guarded(why, [&] {
        DcmElement *element = find(from, tag);
        if (element == nullptr)
            return 0;
        std::unique_ptr<DcmElement> copy(dynamic_cast<DcmElement *>(element->clone()));
        if (copy == nullptr)
            return fault_set(why, FAULT_NO_MEMORY, "cannot copy element (%04x,%04x)", tag >> 16,
                             tag & 0xFFFF);
        strip(copy.get());
        OFCondition condition = thaw(to)->insert(copy.get(), OFTrue);
        if (condition.bad())
            return condition_fault(why, FAULT_INTERNAL, condition, "insert a copied element");
        (void)copy.release();
        return 0;
    });
}

int dcm_copy_item(struct dcm_item *to, uint32_t sequence, const struct dcm_item *item, struct fault_note *why)
{
    return guarded(why, [&] {
        std::unique_ptr<DcmItem> copy(dynamic_cast<DcmItem *>(thaw(item)->clone()));
        if (copy == nullptr)
            return fault_set(why, FAULT_NO_MEMORY, "cannot copy a sequence item");
        strip(copy.get());
        OFCondition condition = thaw(to)->insertSequenceItem(key_of(sequence), copy.get(), -2);
        if (condition.bad())
            return condition_fault(why, FAULT_INTERNAL, condition, "append a copied item");
        (void)copy.release();
        return 0;
    });
}

int dcm_put_text(struct dcm_item *to, uint32_t tag, const char *vr, const char *text, struct fault_note *why)
{
    return guarded(why, [&] {
        DcmTag full(key_of(tag), DcmVR(vr));
        OFCondition condition = text[0] == '\0' ? thaw(to)->insertEmptyElement(full, OFTrue)
                                                : thaw(to)->putAndInsertString(full, text, OFTrue);
        if (condition.bad())
            return fault_set(why, FAULT_INTERNAL, "cannot set (%04x,%04x) %s: %s", tag >> 16, tag & 0xFFFF,
                             vr, condition.text());
        return 0;
    });
}

int dcm_put_short(struct dcm_item *to, uint32_t tag, int is_signed, int value, struct fault_note *why)
{
    return guarded(why, [&] {
        DcmTag full(key_of(tag), DcmVR(is_signed ? EVR_SS : EVR_US));
        OFCondition condition =
            is_signed ? thaw(to)->putAndInsertSint16(full, static_cast<Sint16>(value), 0, OFTrue)
                      : thaw(to)->putAndInsertUint16(full, static_cast<Uint16>(value), 0, OFTrue);
        if (condition.bad())
            return condition_fault(why, FAULT_INTERNAL, condition, "set a 16-bit value");
        return 0;
    });
}

int dcm_put_numbers(struct dcm_item *to, uint32_t tag, const char *vr, const double *numbers, int n,
                    struct fault_note *why)
{
    return guarded(why, [&] {
        const DcmTag full(key_of(tag), DcmVR(vr));
        std::unique_ptr<DcmElement> element(DcmItem::newDicomElement(full));
        if (element == nullptr)
            return fault_set(why, FAULT_NO_MEMORY, "cannot make an element");
        OFCondition condition = EC_Normal;
        for (int i = 0; i < n && condition.good(); i++) {
            const unsigned long at = static_cast<unsigned long>(i);
            if (full.getEVR() == EVR_US)
                condition = element->putUint16(static_cast<Uint16>(numbers[i]), at);
            else if (full.getEVR() == EVR_UL)
                condition = element->putUint32(static_cast<Uint32>(numbers[i]), at);
            else
                condition = element->putFloat64(numbers[i], at);
        }
        if (condition.good())
            condition = thaw(to)->insert(element.get(), OFTrue);
        if (condition.bad())
            return condition_fault(why, FAULT_INTERNAL, condition, "set binary numbers");
        (void)element.release();
        return 0;
    });
}

int dcm_put_tag(struct dcm_item *to, uint32_t tag, uint32_t value, struct fault_note *why)
{
    return guarded(why, [&] {
        const OFCondition condition =
            thaw(to)->putAndInsertTagKey(DcmTag(key_of(tag), EVR_AT), key_of(value), 0, OFTrue);
        return condition.good() ? 0 : condition_fault(why, FAULT_INTERNAL, condition, "set a tag");
    });
}

int dcm_put_pixels(struct dcm_item *to, const uint16_t *words, size_t n, struct fault_note *why)
{
    return guarded(why, [&] {
        OFCondition condition = thaw(to)->putAndInsertUint16Array(DcmTag(DCM_PixelData, EVR_OW), words,
                                                                  static_cast<unsigned long>(n), OFTrue);
        if (condition.bad())
            return condition_fault(why, FAULT_NO_MEMORY, condition, "set the pixel data");
        return 0;
    });
}

int dcm_remove(struct dcm_item *to, uint32_t tag, struct fault_note *why)
{
    return guarded(why, [&] {
        (void)thaw(to)->findAndDeleteElement(key_of(tag));
        return 0;
    });
}

int dcm_add_item(struct dcm_item *to, uint32_t tag, struct dcm_item **item, struct fault_note *why)
{
    return guarded(why, [&] {
        DcmItem *made = nullptr;
        OFCondition condition = thaw(to)->findOrCreateSequenceItem(DcmTag(key_of(tag), EVR_SQ), made, -2);
        if (condition.bad() || made == nullptr)
            return condition_fault(why, FAULT_INTERNAL, condition, "append an item");
        *item = freeze(made);
        return 0;
    });
}

int dcm_object_encode(const struct dcm_object *object, void **data, size_t *size, struct fault_note *why)
{
    return guarded(why, [&] {
        DcmDataset &dataset = const_cast<struct dcm_object *>(object)->dataset;
        // Computed first, so that every sequence knows its explicit length.
        const Uint32 length = dataset.calcElementLength(EXS_LittleEndianExplicit, EET_ExplicitLength);
        const size_t room = static_cast<size_t>(length) + 4096;
        std::unique_ptr<void, void (*)(void *)> buffer(malloc(room), free);
        if (buffer == nullptr)
            return fault_set(why, FAULT_NO_MEMORY, "cannot hold an object of %zu bytes", room);
        DcmOutputBufferStream stream(buffer.get(), static_cast<offile_off_t>(room));
        dataset.transferInit();
        OFCondition condition =
            dataset.write(stream, EXS_LittleEndianExplicit, EET_ExplicitLength, nullptr, EGL_withoutGL);
        dataset.transferEnd();
        if (condition.bad())
            return condition_fault(why, FAULT_INTERNAL, condition, "encode the object");
        void *start = nullptr;
        offile_off_t written = 0;
        stream.flushBuffer(start, written);
        if (start != buffer.get())
            return fault_set(why, FAULT_INTERNAL, "the encoder began in another buffer");
        *size = static_cast<size_t>(written);
        *data = buffer.release();
        return 0;
    });
}

int dcm_object_decode(struct dcm_object *object, void *samples, size_t size, struct fault_note *why)
{
    return guarded(why, [&] {
        DcmDataset &dataset = object->dataset;
        OFCondition condition = dataset.chooseRepresentation(EXS_LittleEndianExplicit, nullptr);
        if (condition.bad())
            return condition_fault(why, FAULT_DECODE, condition, "decode the pixel data");
        DcmElement *element = nullptr;
        condition = dataset.findAndGetElement(DCM_PixelData, element);
        if (condition.bad() || element == nullptr)
            return condition_fault(why, FAULT_DECODE, condition, "find the pixel data");
        Uint8 *bytes = nullptr;
        Uint16 *words = nullptr;
        const void *decoded = nullptr;
        if (element->getUint8Array(bytes).good())
            decoded = bytes;
        else if (element->getUint16Array(words).good())
            decoded = words;
        if (decoded == nullptr || element->getLength() < size || element->getLength() > size + 1)
            return fault_set(why, FAULT_PIXEL_SIZE,
                             "the pixel data are %lu bytes when decoded, the header says %zu",
                             static_cast<unsigned long>(decoded ? element->getLength() : 0), size);
        memcpy(samples, decoded, size);
        return 0;
    });
}
